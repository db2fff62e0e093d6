"""What has to be settled before JAX, PyTorch or the package is imported."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCES = Path(__file__).resolve().parent.parent / "src"
ARRAY_TYPES = ("Bool", "Float", "Int", "Shaped", "UInt8")
"""What the package's ``axes`` takes from jaxtyping."""


def prepare() -> None:
    """Leave memory of the GPU to PyTorch, and import the package from this checkout."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not _can_import("jaxtyping"):
        sys.modules["jaxtyping"] = jaxtyping_stand_in()
    # First, so that it is never another version, which may be installed, that is measured.
    sys.path.insert(0, str(SOURCES))


class UncheckedArray:
    """``UncheckedArray[Array, "b h w c"]`` is ``Array``: the shape is for people to read."""

    def __class_getitem__(cls, annotated: tuple[Any, str]) -> Any:
        """The array's type alone."""
        return annotated[0]


def jaxtyping_stand_in() -> ModuleType:
    """A module with jaxtyping's names for annotations, which checks nothing, as it does there.

    jaxtyping is the one package that the networks need beyond those of which jax, flax, optax,
    torch and timm bring all, and they need it for nothing but annotations.
    """
    module = ModuleType("jaxtyping", "Annotations of arrays, unchecked.")
    for name in ARRAY_TYPES:
        setattr(module, name, UncheckedArray)
    return module


def _can_import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
