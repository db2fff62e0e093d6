"""What a user of the installed package does first, from a folder without the source.

The only argument is the README, whose Python is run as it stands.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from bottleneck_transformer_flax import load_pretrained


def main(readme: Path) -> None:
    package = Path(str(files("bottleneck_transformer_flax")))
    assert "site-packages" in package.parts, f"the source tree is tested, not the wheel: {package}"
    for name in (
        "py.typed",
        "export/onnxruntime_web/LICENSE",
        "export/onnxruntime_web/ort.js",
        "export/onnxruntime_web/ort.wasm.gz",
        "export/page/index.html",
        "export/page/page.css",
        "export/page/page.js",
        "export/samples/cat.jpg",
    ):
        assert (package / name).is_file(), f"{name} is missing from the wheel"
    snippets = readme.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Image.new("RGB", (40, 30), "red").save("cat.jpg")
        check_snippet(snippets)
    check_command_line()
    print("the wheel works: 1 passed, 0 failed")


def check_snippet(readme: str) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        exec(block, names)
        assert names["logits"].dtype == np.float32
        assert np.isfinite(names["logits"]).all()
        print("the README's Python gives logits of shape", names["logits"].shape)


def check_command_line() -> None:
    assert load_pretrained("botnet_tiny").model.config.num_classes == 10
    # Only commands keep compiled programs.
    assert jax.config.jax_compilation_cache_dir is None  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "grey.png"
        Image.new("L", (28, 28), 128).save(image)
        lines = subprocess.run(
            ["botnet", "predict", "--json", str(image)],
            check=True,
            capture_output=True,
            text=True,
            cwd=folder,
        ).stdout.splitlines()
        assert len(json.loads(lines[0])["predictions"]) == 5, lines
        result = subprocess.run(
            ["botnet", "evaluate", "--json"], check=True, capture_output=True, text=True, cwd=folder
        ).stdout
        assert json.loads(result)["count"] == 1000, result
        print(f"the model in the package: {json.loads(result)['top1']:.3f} top-1 on 1000 images")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
