"""timm's networks on a GPU as they are fastest: compiled, frozen, channels last, autocast."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.gpu_measure import Work, one_line
from benchmarks.gpu_memory import out_of_memory
from benchmarks.gpu_settings import Settings
from benchmarks.implementations import (
    LEARNING_RATE,
    MOMENTUM,
    UPDATES_COMPARED,
)
from bottleneck_transformer_flax.errors import ConfigError

Module = Any
TIMM, NOT_FROZEN = "timm", "timm, not frozen"


class Prepared(NamedTuple):
    """A network, compiled and ready to be timed.

    Attributes:
        work: to be timed.
        outputs: logits, or the losses of the first updates.
    """

    work: Work
    outputs: np.ndarray


def torch_device(*, needs_gpu: bool) -> torch.device:
    """Where PyTorch computes, set up for speed.

    Raises:
        ConfigError: when a GPU is needed and PyTorch has none.
    """
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
        # What autocast leaves in float32 is rounded as JAX rounds it.
        torch.set_float32_matmul_precision("high")
        return torch.device("cuda")
    if needs_gpu:
        raise ConfigError(
            f"torch {torch.__version__} finds no GPU, which timm's networks need; install a build "
            "of torch for this GPU, or pass --small"
        )
    return torch.device("cpu")


@contextmanager
def exact_products() -> Iterator[None]:
    """PyTorch's products and convolutions of float32 are not rounded to TF32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def inference(
    network: Module, images: np.ndarray, settings: Settings, device: torch.device
) -> Prepared:
    """Logits of the batch, the weights frozen into what is compiled where that works.

    Args:
        network: in inference, on the CPU.
        images: normalised, NHWC.
        settings: how it is compiled, and in what it computes.
        device: where.
    """
    network.to(device, memory_format=torch.channels_last)
    given = _channels_last(images, device)

    def built(name: str) -> Prepared:
        compiled = _compiled(network, settings)

        def start() -> torch.Tensor:
            with torch.no_grad(), _autocast(settings, device):
                logits: torch.Tensor = compiled(given)
                return logits

        logits, work = _built(name, start, device)
        return Prepared(work, logits.float().cpu().numpy())

    try:
        # It is compiled by its first call, and frozen only where no gradients are asked for.
        with torch._inductor.config.patch(freezing=True):
            return built(TIMM)
    except Exception as error:
        if out_of_memory(error):
            raise
        print(f"timm's network is compiled again, not frozen, which {one_line(error)}")
    torch._dynamo.reset()
    return built(NOT_FROZEN)


def training(
    network: Module,
    images: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    device: torch.device,
) -> Prepared:
    """Updates of every parameter by SGD with momentum; for the arguments see ``inference``."""
    backward = _Backward(network, images, labels, settings, device)
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=MOMENTUM)

    def start() -> torch.Tensor:
        loss = backward()
        optimizer.step()
        return loss

    loss, work = _built(TIMM, start, device)
    losses = [loss.item()] + [start().item() for _ in range(UPDATES_COMPARED - 1)]
    return Prepared(work, np.array(losses))


def gradients(
    network: Module,
    images: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    device: torch.device,
) -> Prepared:
    """The loss and the gradient of every parameter, with no update; see ``inference``."""
    backward = _Backward(network, images, labels, settings, device)
    loss, work = _built(TIMM, backward, device)
    return Prepared(work, np.array([loss.item()]))


class _Backward:
    """Forward and backward of a network in training, in what is compiled."""

    def __init__(
        self,
        network: Module,
        images: np.ndarray,
        labels: np.ndarray,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self._network = network.train().to(device, memory_format=torch.channels_last)
        self._compiled = _compiled(self._network, settings)
        self._images = _channels_last(images, device)
        self._labels = torch.from_numpy(labels).to(device)
        self._context: Callable[[], Any] = lambda: _autocast(settings, device)

    def __call__(self) -> torch.Tensor:
        for parameter in self._network.parameters():
            parameter.grad = None
        with self._context():
            logits = self._compiled(self._images)
            loss = torch.nn.functional.cross_entropy(logits, self._labels)
        loss.backward()
        return loss.detach()


def _compiled(network: Module, settings: Settings) -> Module:
    if settings.torch_backend is None:
        return network
    return torch.compile(network, backend=settings.torch_backend)


def _built(
    name: str, start: Callable[[], torch.Tensor], device: torch.device
) -> tuple[torch.Tensor, Work]:
    """The first result and the work, whose memory counts from here."""

    def wait(_: Any = None) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    began = time.perf_counter()
    first = start()
    wait()
    seconds = time.perf_counter() - began
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return first, Work(name, start, wait, lambda: _peak_bytes(device), seconds)


def _peak_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


@contextmanager
def _autocast(settings: Settings, device: torch.device) -> Iterator[None]:
    half = settings.dtype == "bfloat16"
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        yield


def _channels_last(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """NHWC to a tensor that is NCHW by its shape and NHWC in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
