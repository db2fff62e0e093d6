"""timm's network, exported to ONNX by PyTorch, in the runtimes that people deploy with."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cases import Case, inputs_and_labels, timm_arrays
from benchmarks.implementations import Built
from reference.timm_networks import load_network


def build_onnxruntime(case: Case, folder: Path) -> Built:
    """onnxruntime with all its optimizations, on the CPU."""
    import onnxruntime

    path, images = _exported(case, folder)
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images}

    def call() -> Any:
        return session.run(None, feed)

    output = call()[0]
    return Built(call, (output,), time.perf_counter() - start)


def build_openvino(case: Case, folder: Path) -> Built:
    """OpenVINO on the CPU, tuned for latency, in float32 as all others."""
    import openvino

    path, images = _exported(case, folder)
    start = time.perf_counter()
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(path),
        "CPU",
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
    )
    request = compiled.create_infer_request()

    def call() -> Any:
        return request.infer({0: images})

    output = np.array(call()[compiled.output(0)])
    return Built(call, (output,), time.perf_counter() - start)


def _exported(case: Case, folder: Path) -> tuple[str, np.ndarray]:
    """The file, and images in PyTorch's layout."""
    network = load_network(case.config, case.size, timm_arrays(folder))
    images = np.ascontiguousarray(inputs_and_labels(folder)[0].transpose(0, 3, 1, 2))
    path = folder / "network.onnx"
    if not path.exists():
        torch.onnx.export(network, (torch.from_numpy(images),), path, dynamo=True, verbose=False)
    return str(path), images
