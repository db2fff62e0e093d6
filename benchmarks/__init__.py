"""Measurements of this checkout: ``python -m benchmarks COMMAND …`` in its root.

The package measured is the checkout's own, whatever is installed, and timm's networks come from the
tests' references.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

# On a GPU, JAX and PyTorch share the memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


class _Unchecked:
    """``_Unchecked[Array, "b h w c"]`` is ``Array``."""

    def __class_getitem__(cls, annotated: tuple[Any, str]) -> Any:
        return annotated[0]


class _Jaxtyping(ModuleType):
    """A stand-in for jaxtyping, whose names do nothing.

    Machines that lend a GPU have jax, flax, optax, orbax, torch and timm. The networks need nothing
    else but these names, for annotations.
    """

    def __getattr__(self, name: str) -> type[_Unchecked]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unchecked


try:
    import jaxtyping  # noqa: F401
except ImportError:
    sys.modules["jaxtyping"] = _Jaxtyping("jaxtyping")
