"""Who is measured: this library and its peers, by name."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.cases import WORKLOADS, Case, Workload
from bottleneck_transformer_flax.layers.attention_backends.choice import MANY_POSITIONS

UPDATES_COMPARED = 3
"""Of training, the losses that implementations must agree in."""
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
FreedMemory = Literal["kept", "kept-by-ours", "given-back"]
"""Whether processes keep it by ``keep_freed_memory``: all, those of this library alone, or none."""


class Built(NamedTuple):
    """An implementation, ready to be timed.

    Attributes:
        call: does the work once and returns when it is done.
        outputs: what it gives, to be compared: logits; or the losses of the first updates; or the
            layer's output and, in training, its input's gradient.
        compile_seconds: what it took to get ready, without reading the weights.
        temporaries_bytes: of one call, by the compiler's own analysis; None where it has none.
    """

    call: Callable[[], Any]
    outputs: tuple[np.ndarray, ...]
    compile_seconds: float
    temporaries_bytes: int | None = None


class Implementation(NamedTuple):
    """One way to do the work.

    Attributes:
        module: in this package, where it is built; imported only there where it is measured.
        builder: the name of its ``(case, folder) → Built`` there.
        workloads: what it does.
        packages: what must be installed.
        keeps_weights: whether it always has all attention weights of a layer in memory; otherwise
            only for the gradients of few positions.
    """

    module: str
    builder: str
    workloads: tuple[Workload, ...]
    packages: tuple[str, ...] = ()
    keeps_weights: bool = True

    def build(self, case: Case, folder: Path) -> Built:
        """Make it ready for a case whose weights and inputs are in a folder."""
        module = import_module(f"{__package__}.{self.module}")
        built: Built = getattr(module, self.builder)(case, folder)
        return built

    def keeps(self, freed_memory: FreedMemory) -> bool:
        """Whether its process keeps freed memory."""
        of_ours = freed_memory == "kept-by-ours" and self.module == "ours"
        return of_ours or freed_memory == "kept"

    def missing(self) -> list[str]:
        """The packages it needs that are not installed."""
        return [name for name in self.packages if package_version(name) is None]

    def least_memory_bytes(self, case: Case) -> int:
        """For attention weights, of which a call and its gradients hold several copies."""
        height, width = case.size
        differentiated = case.workload == "attention-training"
        if not self.keeps_weights and not (differentiated and height * width < MANY_POSITIONS):
            return 0
        return (8 if differentiated else 4) * case.attention_weights_bytes


OURS = "ours"
REFERENCE = "reference"
_TIMM = ("torch", "timm")
_ONNX = (*_TIMM, "onnx", "onnxscript")
IMPLEMENTATIONS = {
    OURS: Implementation("ours", "build", WORKLOADS, keeps_weights=False),
    REFERENCE: Implementation("ours", "build_reference", WORKLOADS),
    "timm": Implementation("torch_peers", "build_eager", WORKLOADS, _TIMM),
    "timm-compiled": Implementation("torch_peers", "build_compiled", WORKLOADS, _TIMM),
    "onnxruntime": Implementation(
        "onnx_peers", "build_onnxruntime", ("inference",), (*_ONNX, "onnxruntime")
    ),
    "openvino": Implementation(
        "onnx_peers", "build_openvino", ("inference",), (*_ONNX, "openvino")
    ),
    "ours-remat": Implementation("ours", "build_remat", ("training",), keeps_weights=False),
}


PRODUCTS = {
    "product": Implementation("ours", "build_product", WORKLOADS),
    "torch-product": Implementation("torch_peers", "build_product", WORKLOADS, _TIMM),
}
"""What the machine's peak is measured by: the fastest of these, in the same rounds."""
PRODUCT_SIDE = 2048


def package_version(name: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
