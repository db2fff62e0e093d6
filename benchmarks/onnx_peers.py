"""timm's network, exported to ONNX by PyTorch, in the runtimes that people deploy with."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.cases import Case, inputs_and_labels, timm_arrays
from benchmarks.implementations import Built
from benchmarks.onnx_runtimes import Runtime, loaded
from reference.timm_networks import load_network


def build(case: Case, folder: Path, *, runtime: Runtime) -> Built:
    """Export the network, unless it was, and load it into a runtime."""
    network = load_network(case.config, case.size, timm_arrays(folder))
    images = np.ascontiguousarray(inputs_and_labels(folder)[0].transpose(0, 3, 1, 2))
    path = folder / "network.onnx"
    if not path.exists():
        torch.onnx.export(network, (torch.from_numpy(images),), path, dynamo=True, verbose=False)
    return loaded(path, images, runtime)
