"""The implementations that can be measured: by name, and where each is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.results import package_version
from bottleneck_transformer_flax.models.execution import Execution

FreedMemory = Literal["kept", "kept-by-ours", "given-back"]
"""Which processes ask glibc to keep freed memory: all, this library's alone, or none."""
NETWORK_WORKLOADS = ("inference", "training", "attention", "attention-training")


def process_peak_bytes() -> int | None:
    """Peak memory of this process since it was last reset; None except on Linux."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(kilobytes[0]) * 1024 if kilobytes else None


class Built(NamedTuple):
    """An implementation, ready to be timed.

    Attributes:
        run: makes a number of calls, and returns when they are done.
        outputs: outputs to compare before anything is timed.
        compile_seconds: seconds until the first result, without reading the weights.
        temporaries_bytes: size of the temporary buffers of one call, if the compiler tells.
        memory_bytes: returns the memory that the calls so far needed.
        close: ends what was started.
        note: what a reader of the results has to know about how it was built.
    """

    run: Callable[[int], None]
    outputs: tuple[np.ndarray, ...]
    compile_seconds: float
    temporaries_bytes: int | None = None
    memory_bytes: Callable[[], int | None] = process_peak_bytes
    close: Callable[[], object] = lambda: None
    note: str = ""


@dataclass(frozen=True)
class Implementation:
    """One way to do the work.

    Attributes:
        module: the module of this folder that builds it, imported only in its own process.
        options: keyword arguments of that module's ``build(case, folder)``.
        workloads: the work that it can do.
        packages: packages that must be installed.
    """

    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    workloads: tuple[str, ...] = NETWORK_WORKLOADS
    packages: tuple[str, ...] = ()

    def build(self, case: Any, folder: Path) -> Built:
        """Make it ready for a case, whose weights and inputs are in a folder."""
        built: Built = import_module(f"benchmarks.{self.module}").build(
            case, folder, **self.options
        )
        return built

    def keeps(self, freed_memory: FreedMemory) -> bool:
        """Whether its process keeps freed memory."""
        return freed_memory == "kept" or (freed_memory == "kept-by-ours" and self.module == "ours")

    def missing(self) -> list[str]:
        """The packages it needs that are not installed."""
        return [name for name in self.packages if package_version(name) is None]


_TIMM = ("torch", "timm")
_ONNX = (*_TIMM, "onnx", "onnxscript")
OURS, REFERENCE, COMPILED = "ours", "reference", "timm-compiled"
NETWORKS = {
    OURS: Implementation("ours"),
    REFERENCE: Implementation(
        "ours",
        {
            "execution": Execution(attention_backend="reference", convolution_algorithm="plain"),
            "folded": False,
        },
    ),
    "timm": Implementation("torch_peers", packages=_TIMM),
    COMPILED: Implementation("torch_peers", {"compiled": True}, packages=_TIMM),
    **{
        runtime: Implementation(
            "onnx_peers", {"runtime": runtime}, ("inference", "export"), (*_ONNX, runtime)
        )
        for runtime in ("onnxruntime", "openvino")
    },
    **{
        f"exported-{runtime}": Implementation(
            "exported",
            {"runtime": runtime},
            ("inference", "export"),
            ("jax2onnx", "onnxruntime", runtime),
        )
        for runtime in ("onnxruntime", "openvino")
    },
    "ours-remat": Implementation("ours", {"execution": Execution(remat=True)}, ("training",)),
}
READERS = {
    OURS: Implementation("readers", {}, ("data",)),
    "timm": Implementation("torch_reader", {}, ("data",), _TIMM),
    "plain-loop": Implementation("readers", {"plain": True}, ("data",)),
}
PRODUCT_SIDE = 2048
PRODUCTS = {
    "product": Implementation("ours", {"product": True}),
    "torch-product": Implementation("torch_peers", {"product": True}, packages=_TIMM),
}
"""Large matrix products, timed in the same rounds: what the MFU is a fraction of."""
