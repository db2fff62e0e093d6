"""timm on PyTorch, eager and compiled, in the layout that is faster for convolutions."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cases import (
    LEARNING_RATE,
    MOMENTUM,
    UPDATES_COMPARED,
    Case,
    inputs_and_labels,
    timm_arrays,
)
from benchmarks.implementations import PRODUCT_SIDE, Built, process_peak_bytes
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.preprocessing import Preprocessing
from reference.timm_networks import load_attention, load_network, timm_model

Module = Callable[..., Any]


def build(
    case: Case,
    folder: Path,
    *,
    compiled: bool = False,
    product: bool = False,
    network: str | None = None,
    size: tuple[int, int] | None = None,
) -> Built:
    """Build timm's function for a case.

    Args:
        case: the work.
        folder: the folder of its weights and inputs.
        compiled: whether by torch.compile, for inference with weights frozen into the program.
        product: whether to compute a large matrix product instead.
        network: timm's name of a network that is measured instead of the case's, untrained.
        size: height and width of the images of that network.
    """
    _prepare(case)
    if product:
        side = torch.ones(PRODUCT_SIDE, PRODUCT_SIDE, device=case.device)
        return _built(case, lambda: side @ side, lambda result: ())
    inputs, labels = inputs_and_labels(folder)
    if network is not None:
        inputs = np.resize(inputs, (case.batch_size, *(size or case.size), 3))
        module: Any = timm_model(network, num_classes=case.config.num_classes)
    elif case.of_layer:
        module = load_attention(case.attention_layer("reference"), case.size, timm_arrays(folder))
    else:
        module = load_network(case.config, case.size, timm_arrays(folder))
    module.to(case.device, memory_format=torch.channels_last)
    if case.workload == "training":
        inputs = np.asarray(Preprocessing().normalize(inputs))
    given = _channels_last(inputs, case)
    targets = torch.from_numpy(labels).to(case.device)
    compile_ = partial(torch.compile, backend=case.torch_backend)
    compiles = compiled and not case.exact

    def build_with(function: Module) -> Built:
        if case.workload in ("inference", "attention"):
            return _inference(case, function, given)
        if case.workload == "attention-training":
            return _layer_training(case, module, function, given)
        return _training(case, module.train(), function, given, targets)

    if not compiles:
        return build_with(module)
    if case.workload not in ("inference", "attention"):
        return build_with(compile_(module))
    try:
        # This process's alone, and read by the first call, which compiles.
        torch._inductor.config.freezing = True
        return build_with(compile_(module))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        print(f"not frozen, since {error}")
        torch._inductor.config.freezing = False
        torch._dynamo.reset()
        return build_with(compile_(module))._replace(note="weights not frozen")


def _prepare(case: Case) -> None:
    """Set PyTorch up for speed on a GPU, or for exact products."""
    if case.device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ConfigError(f"torch {torch.__version__} finds no GPU; install a build for this one")
    torch.backends.cudnn.benchmark = not case.exact
    torch.backends.cudnn.allow_tf32 = not case.exact
    # What autocast leaves in float32 is rounded as JAX rounds it.
    torch.set_float32_matmul_precision("highest" if case.exact else "high")


def _inference(case: Case, function: Module, inputs: torch.Tensor) -> Built:
    def call() -> torch.Tensor:
        with torch.inference_mode(), _autocast(case):
            output: torch.Tensor = function(inputs)
            return output

    return _built(case, call, lambda output: (_our_layout(output),))


def _layer_training(
    case: Case, layer: torch.nn.Module, function: Module, inputs: torch.Tensor
) -> Built:
    inputs.requires_grad_()

    def call() -> torch.Tensor:
        layer.zero_grad(set_to_none=True)
        inputs.grad = None
        with _autocast(case):
            output: torch.Tensor = function(inputs)
        output.square().sum().backward()
        return output.detach()

    def outputs(output: torch.Tensor) -> tuple[np.ndarray, ...]:
        assert inputs.grad is not None
        return _our_layout(output), _our_layout(inputs.grad)

    return _built(case, call, outputs)


def _training(
    case: Case,
    network: torch.nn.Module,
    function: Module,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> Built:
    """Updates by SGD with momentum, or the gradients alone."""
    updates = case.workload == "training"
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=MOMENTUM)

    def call() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(case):
            loss = torch.nn.functional.cross_entropy(function(images), labels)
        loss.backward()
        if updates:
            optimizer.step()
        return loss.detach()

    def outputs(loss: torch.Tensor) -> tuple[np.ndarray, ...]:
        if not updates:
            return ()
        return (np.array([loss.item(), *(call().item() for _ in range(UPDATES_COMPARED - 1))]),)

    return _built(case, call, outputs)


def _built(
    case: Case,
    call: Callable[[], torch.Tensor],
    outputs: Callable[[torch.Tensor], tuple[np.ndarray, ...]],
) -> Built:
    on_gpu = case.device == "cuda"

    def run(calls: int) -> None:
        for _ in range(calls):
            call()
        if on_gpu:
            torch.cuda.synchronize()

    start = time.perf_counter()
    first = call()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    compared = outputs(first)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    memory = torch.cuda.max_memory_allocated if on_gpu else process_peak_bytes
    return Built(run, compared, seconds, memory_bytes=memory)


def _autocast(case: Case) -> AbstractContextManager[Any]:
    return torch.autocast(case.device, dtype=torch.bfloat16) if case.half else nullcontext()


def _channels_last(array: np.ndarray, case: Case) -> torch.Tensor:
    """NHWC to a tensor that is NCHW by its shape and NHWC in memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(case.device)
    return tensor.permute(0, 3, 1, 2)


def _our_layout(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().float().cpu().numpy()
    return np.array(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)
