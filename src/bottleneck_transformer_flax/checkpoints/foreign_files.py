"""The files of other projects' checkpoints, as plain arrays under their own names."""

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.flax import load_file
from safetensors.numpy import save

from bottleneck_transformer_flax.checkpoints.atomic import replaced_file
from bottleneck_transformer_flax.errors import CheckpointError

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".bin", ".tar")
_WRAPPERS = ("state_dict_ema", "state_dict", "model")
_BATCH_COUNTER = "num_batches_tracked"


def read_foreign(path: Path) -> dict[str, np.ndarray]:
    """The float32 arrays of a ``.safetensors`` or PyTorch file; its batch counters are left out.

    A PyTorch file is read as data alone: nothing in it is ever executed. What its arrays are
    wrapped in ("state_dict", "module.") is taken off; of two sets the averaged one is taken.

    Raises:
        CheckpointError: when the file is missing, damaged, holds code, or is of another kind.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}; expected a file of another project's weights")
    if path.suffix == SAFETENSORS:
        arrays = _read_safetensors(path)
    elif path.suffix in PICKLED:
        arrays = _read_torch(path)
    else:
        raise CheckpointError(
            f"{path} ends in {path.suffix!r}; expected {SAFETENSORS}, {', '.join(PICKLED)}"
        )
    return {
        name.removeprefix("module."): array
        for name, array in arrays.items()
        if not name.endswith(_BATCH_COUNTER)
    }


def write_foreign(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a ``.safetensors`` file as PyTorch's own libraries do, whole or not at all.

    Raises:
        CheckpointError: when the name ends in anything else, or is a folder's.
    """
    if path.suffix != SAFETENSORS or path.is_dir():
        what = "is a folder" if path.is_dir() else f"ends in {path.suffix!r}"
        raise CheckpointError(f"{path} {what}; expected the name of a {SAFETENSORS} file")
    with replaced_file(path) as beside:
        beside.write_bytes(save(dict(arrays), metadata={"format": "pt"}))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, AttributeError, TypeError) as error:
        raise _unreadable(path, error) from error
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a PyTorch file and PyTorch is not installed; install this package's "
            f"'torch' extra, or convert the file to {SAFETENSORS}"
        ) from error
    try:
        # A training script's options are plain values, and many checkpoints hold them.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path} holds code ({code[1]}), and nothing in it was executed; ask for a file "
                f"of the weights alone, best as {SAFETENSORS}"
            ) from error
        raise CheckpointError(f"{path} is damaged, or no PyTorch file; copy it anew") from error
    except Exception as error:
        # What its reader of pickles stumbles over has no base class in common.
        raise _unreadable(path, error) from error
    tensors = _named_tensors(loaded)
    if not tensors:
        raise CheckpointError(f"{path} holds no named arrays; expected a model's state_dict")
    try:
        return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds arrays that are not dense ({next(iter(str(error).splitlines()), '')}); "
            "expected plain weights"
        ) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return CheckpointError(f"{path} cannot be read ({reason}); copy or download it anew")


def _named_tensors(loaded: Any) -> dict[str, Any]:
    """The tensors of a state_dict, or of the first thing known to hold one."""
    if not isinstance(loaded, dict):
        return {}
    for wrapper in _WRAPPERS:
        if isinstance(loaded.get(wrapper), dict):
            return _named_tensors(loaded[wrapper])
    return {str(name): value for name, value in loaded.items() if hasattr(value, "detach")}
