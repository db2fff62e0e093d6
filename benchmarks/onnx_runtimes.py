"""ONNX files in the runtimes that people deploy with."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.implementations import Built

Runtime = Literal["onnxruntime", "openvino"]


def loaded(path: Path, images: np.ndarray, runtime: Runtime) -> Built:
    """An ONNX file in a runtime, to be run on images."""
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
    """OpenVINO on the CPU, for this batch size, tuned for latency, in float32 as all others."""
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = core.read_model(path)
    model.reshape(images.shape)
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: np.array(request.infer({0: images})[compiled.output(0)])
