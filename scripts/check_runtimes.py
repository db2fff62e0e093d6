"""Check that exported files run in the oldest runtimes that they are written for.

    .venv/bin/python scripts/check_runtimes.py

Exports botnet_tiny in every form, then runs the files in an environment of its own, with
onnxruntime 1.18 and OpenVINO 2024, and compares the results with those of today's onnxruntime (1e-4
in float32; 0.02 in 8 bits, where runtimes round differently). Takes some minutes.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from bottleneck_transformer_flax.conversion.loading import load_pretrained
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.export.functions import Outputs
from bottleneck_transformer_flax.export.int8 import write_int8
from bottleneck_transformer_flax.export.onnx import write_onnx
from bottleneck_transformer_flax.inference.onnx_model import INPUT, new_session

RUNTIMES = ("onnxruntime==1.18.1", "openvino==2024.6.0", "numpy<2")

PROGRAM = """
import glob, sys
import numpy as np, onnxruntime, openvino
bad = False
for path in sorted(glob.glob("*.onnx")):
    given = np.load(path + ".npz")
    images, expected = given["images"], [given[f"output_{i}"] for i in range(len(given) - 1)]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = {"onnxruntime " + onnxruntime.__version__: session.run(None, {"images": images})}
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"images": images})
    outputs["openvino " + openvino.__version__[:8]] = [found[one] for one in compiled.outputs]
    for runtime, values in outputs.items():
        worst = max(float(abs(a - b).max()) for a, b in zip(values, expected))
        print(f"{runtime:<22} {path:<16} largest difference {worst:.1e}")
        bad |= not worst <= (0.02 if "int8" in path else 1e-4)
sys.exit(bad)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_all(folder)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *RUNTIMES], check=True)
        code = subprocess.run([python, "-c", PROGRAM], cwd=folder).returncode
    print("a file differs" if code else "every file runs in the oldest runtimes")
    sys.exit(code)


def export_all(folder: Path) -> None:
    """Write the files, each with inputs and outputs beside it."""
    pretrained, splits = load_pretrained("botnet_tiny"), load_splits("embedded")
    assert splits.validation is not None
    for name, outputs in (
        ("plain", Outputs()),
        ("raw", Outputs(raw=True)),
        ("everything", Outputs(features=True, attention=True)),
    ):
        write_onnx(pretrained, folder / f"{name}.onnx", outputs=outputs)
    write_int8(pretrained, folder / "int8.onnx", splits.train, splits.validation, num_workers=0)
    scored = [np.asarray(splits.validation.open(index).decode()) for index in range(8)]
    for path in folder.glob("*.onnx"):
        images = np.stack(scored)
        if path.stem == "raw":
            images = pretrained.preprocessing.normalize(images)
        outputs_of = new_session(path).run(None, {INPUT: images})
        arrays = {f"output_{index}": array for index, array in enumerate(outputs_of)}
        np.savez(f"{path}.npz", images=images, **arrays)


if __name__ == "__main__":
    main()
