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


try:
    import jaxtyping  # noqa: F401
except ImportError:
    # Machines that lend a GPU have jax, flax, optax, orbax, torch and timm, and the networks need
    # nothing else but jaxtyping's names, for annotations.
    _stand_in = ModuleType("jaxtyping")
    for _name in ("Bool", "Float", "Int", "Shaped", "UInt8"):
        setattr(_stand_in, _name, _Unchecked)
    sys.modules["jaxtyping"] = _stand_in
