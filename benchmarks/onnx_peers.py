"""timm's network, exported to ONNX by PyTorch, in the runtimes that people deploy with."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.cases import Case, inputs_and_labels, timm_arrays
from benchmarks.implementations import Built
from reference.timm_networks import load_network


def build(case: Case, folder: Path, *, runtime: Literal["onnxruntime", "openvino"]) -> Built:
    """Export the network, unless it was, and load it into a runtime."""
    network = load_network(case.config, case.size, timm_arrays(folder))
    images = np.ascontiguousarray(inputs_and_labels(folder)[0].transpose(0, 3, 1, 2))
    path = folder / "network.onnx"
    if not path.exists():
        torch.onnx.export(network, (torch.from_numpy(images),), path, dynamo=True, verbose=False)
    start = time.perf_counter()
    call = (_onnxruntime if runtime == "onnxruntime" else _openvino)(str(path), images)
    output = call()
    seconds = time.perf_counter() - start

    def run(calls: int) -> None:
        for _ in range(calls):
            call()

    return Built(run, (output,), seconds)


def _onnxruntime(path: str, images: np.ndarray) -> Callable[[], Any]:
    """onnxruntime with all its optimizations, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)[0]


def _openvino(path: str, images: np.ndarray) -> Callable[[], Any]:
    """OpenVINO on the CPU, tuned for latency, in float32 as all others."""
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: np.array(request.infer({0: images})[compiled.output(0)])
