"""timm on PyTorch, eager and compiled."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cases import (
    Case,
    inputs_and_labels,
    timm_arrays,
)
from benchmarks.implementations import (
    LEARNING_RATE,
    MOMENTUM,
    PRODUCT_SIDE,
    UPDATES_COMPARED,
    Built,
)
from bottleneck_transformer_flax.preprocessing import Preprocessing
from reference.timm_networks import load_attention, load_network

Module = Callable[..., Any]


def build_eager(case: Case, folder: Path) -> Built:
    """As it is, in the layout that is faster for convolutions on a CPU: channels last."""
    return _build(case, folder, lambda module: module)


def build_compiled(case: Case, folder: Path) -> Built:
    """By torch.compile; for inference the weights are frozen into what is compiled."""
    torch._inductor.config.freezing = not case.workload.endswith("training")
    return _build(case, folder, torch.compile)


def build_product(case: Case, folder: Path) -> Built:
    """A large matrix product."""
    side = torch.ones(PRODUCT_SIDE, PRODUCT_SIDE)
    return Built(lambda: side @ side, (), 0.0)


def _build(case: Case, folder: Path, prepared: Callable[[Module], Module]) -> Built:
    arrays = timm_arrays(folder)
    inputs, labels = inputs_and_labels(folder)
    if case.of_layer:
        layer = load_attention(case.attention_layer("reference"), case.size, arrays)
        if case.workload == "attention":
            return _inference(prepared(layer), _channels_last(inputs))
        return _layer_training(layer, prepared(layer), _channels_last(inputs))
    network: Any = load_network(case.config, case.size, arrays)
    network.to(memory_format=torch.channels_last)
    if case.workload == "inference":
        return _inference(prepared(network), _channels_last(inputs))
    network.train()
    images = _channels_last(Preprocessing().normalize(inputs))
    return _training(network, prepared(network), images, torch.from_numpy(labels))


def _inference(function: Module, inputs: torch.Tensor) -> Built:
    def call() -> torch.Tensor:
        with torch.inference_mode():
            output: torch.Tensor = function(inputs)
            return output

    start = time.perf_counter()
    output = call()
    seconds = time.perf_counter() - start
    return Built(call, (_our_layout(output),), seconds)


def _layer_training(layer: torch.nn.Module, function: Module, inputs: torch.Tensor) -> Built:
    inputs.requires_grad_()

    def call() -> torch.Tensor:
        layer.zero_grad(set_to_none=True)
        inputs.grad = None
        output: torch.Tensor = function(inputs)
        output.square().sum().backward()
        return output.detach()

    start = time.perf_counter()
    output = call()
    seconds = time.perf_counter() - start
    assert inputs.grad is not None
    return Built(call, (_our_layout(output), _our_layout(inputs.grad)), seconds)


def _training(
    network: torch.nn.Module, function: Module, images: torch.Tensor, labels: torch.Tensor
) -> Built:
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=MOMENTUM)
    losses = []

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(function(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    start = time.perf_counter()
    update()
    seconds = time.perf_counter() - start
    while len(losses) < UPDATES_COMPARED:
        update()
    return Built(update, (np.array(losses),), seconds)


def _channels_last(array: np.ndarray) -> torch.Tensor:
    """NHWC to a tensor that is NCHW by its shape and NHWC in memory."""
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)


def _our_layout(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().numpy()
    return np.array(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)
