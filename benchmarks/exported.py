"""This library's own ONNX export, in the runtimes that people deploy with."""

from pathlib import Path

from benchmarks.cases import Case, inputs_and_labels, our_variables
from benchmarks.implementations import Built
from benchmarks.onnx_runtimes import Runtime, loaded
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.export.functions import Outputs
from bottleneck_transformer_flax.export.onnx import write_onnx
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.preprocessing import Preprocessing


def build(case: Case, folder: Path, *, runtime: Runtime) -> Built:
    """Export the network, unless it was, and load it into a runtime."""
    path = folder / "exported.onnx"
    if not path.exists():
        model, preprocessing = BoTNet(config=case.config), Preprocessing(size=case.size)
        classes = tuple(map(str, range(case.config.num_classes)))
        pretrained = Pretrained(model, our_variables(folder), preprocessing, classes)
        write_onnx(pretrained, path, outputs=Outputs(raw=True))
    return loaded(path, inputs_and_labels(folder)[0], runtime)
