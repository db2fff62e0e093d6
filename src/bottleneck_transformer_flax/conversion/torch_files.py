"""PyTorch and safetensors files as plain arrays under their own names."""

import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.flax import load_file
from safetensors.numpy import save

from bottleneck_transformer_flax.checkpoints.pretrained_files import CONFIG
from bottleneck_transformer_flax.checkpoints.weights_errors import reading_weights
from bottleneck_transformer_flax.errors import CheckpointError, first_of, reraise
from bottleneck_transformer_flax.files import write_bytes
from bottleneck_transformer_flax.own_output import has_our_format

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".tar")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts keep the arrays, averaged weights first."""
_COUNTERS = ("num_batches_tracked", "n_averaged")
_BESIDE_WEIGHTS = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
)
"""Plain data that training scripts keep beside the weights: options, paths, metrics."""
_ASK = f"Ask for a file of the weights alone, best as {SAFETENSORS}"


class _Ignored:
    """Stands for an object beside the weights; takes any arguments, and does nothing."""

    def __init__(self, *_: Any) -> None:
        """Ignore the arguments of the object."""

    def __setstate__(self, _: Any) -> None:
        """Ignore the state of the object."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the float32 arrays of a ``.safetensors`` or PyTorch file, without batch counters.

    A PyTorch file is read as data alone: nothing in it is ever executed. Wrappers around the arrays
    ("state_dict", "model") are removed, and so is the prefix that all names share, such as
    "module." or Lightning's "model.". Averaged weights are preferred.

    Raises:
        CheckpointError: when the file is missing, damaged, holds code, or is of another kind.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {problem}; expected a file of another project's weights")
    if path.suffix == SAFETENSORS:
        arrays = _read_safetensors(path)
    elif path.suffix in PICKLED:
        arrays = _read_pickled(path)
    else:
        raise CheckpointError(
            f"{path} ends in {path.suffix!r}; expected {SAFETENSORS}, {', '.join(PICKLED)}"
        )
    arrays = {name: array for name, array in arrays.items() if not name.endswith(_COUNTERS)}
    return _without_shared_prefix(arrays)


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a ``.safetensors`` file as PyTorch's own libraries do, whole or not at all.

    Raises:
        CheckpointError: when the name has another suffix, is a folder's, or is that of a file in a
            pretrained directory.
    """
    if has_our_format(path.parent / CONFIG):
        raise CheckpointError(
            f"{path} would be in a pretrained directory, beside or over the model there; name a "
            "file in another folder"
        )
    if path.suffix != SAFETENSORS or path.is_dir():
        problem = "is a folder" if path.is_dir() else f"ends in {path.suffix!r}"
        raise CheckpointError(f"{path} {problem}; expected the name of a {SAFETENSORS} file")
    write_bytes(path, save(dict(arrays), metadata={"format": "pt"}))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with reading_weights(path, "safetensors"):
        arrays: dict[str, Any] = load_file(path)
    _check_floating(
        path, {name: jnp.issubdtype(a.dtype, jnp.floating) for name, a in arrays.items()}
    )
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _read_pickled(path: Path) -> dict[str, np.ndarray]:
    with reraise(
        ImportError,
        CheckpointError,
        f"{path} is a PyTorch file and PyTorch cannot be imported",
        remedy=f"install this package's 'torch' extra, or convert the file to {SAFETENSORS}",
    ):
        import torch
    names = _zipped_names(path)
    if tarfile.is_tarfile(path) or (names and not _has(names, "data.pkl")):
        raise CheckpointError(f"{path} is an archive; unpack it, and name the file of the weights")
    # PyTorch would have to execute it.
    if _has(names, "constants.pkl"):
        raise CheckpointError(
            f"{path} is a TorchScript program, not weights; nothing in it was executed. {_ASK}"
        )
    with reading_weights(path, "PyTorch"):
        try:
            ignored: list[Any] = [(_Ignored, name) for name in _BESIDE_WEIGHTS]
            with warnings.catch_warnings(), torch.serialization.safe_globals(ignored):
                warnings.simplefilter("ignore")
                loaded = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            code = re.search(r"GLOBAL (\S+)", str(error))
            if code is None and not names:
                raise
            problem = (
                f"holds code, or objects that only code could make ({code[1]})"
                if code
                else "is damaged or holds code"
            )
            message = f"{path} {problem}; nothing in it was executed. {_ASK}"
            raise CheckpointError(message) from error
    tensors = _named_tensors(loaded)
    if not tensors:
        raise CheckpointError(f"{path} holds no named arrays; expected a model's state_dict")
    _check_floating(path, {name: t.dtype.is_floating_point for name, t in tensors.items()})
    failure = f"{path} holds arrays that are not dense"
    with reraise((TypeError, RuntimeError), CheckpointError, failure, remedy="expected weights"):
        arrays = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    return arrays


def _without_shared_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove the dotted prefix that all names share."""
    while arrays and all("." in name for name in arrays):
        first, *others = {name.partition(".")[0] for name in arrays}
        # This package's own names stay, so that they are recognised.
        if others or first == "params":
            break
        arrays = {name.partition(".")[2]: array for name, array in arrays.items()}
    return arrays


def _zipped_names(path: Path) -> list[str]:
    """Names in a zip archive, which PyTorch's files are; none in any other file."""
    if not zipfile.is_zipfile(path):
        return []
    with reading_weights(path, "PyTorch"), zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _has(names: Iterable[str], file: str) -> bool:
    return any(name.endswith(f"/{file}") for name in names)


def _check_floating(path: Path, floating: Mapping[str, bool]) -> None:
    """Check that all arrays but the counters are weights as they were trained, not quantized."""
    others = [name for name, is_ in floating.items() if not (is_ or name.endswith(_COUNTERS))]
    if others:
        raise CheckpointError(
            f"{path} holds arrays that are not floating-point: {first_of(others)}; expected "
            "weights as they were trained"
        )


def _named_tensors(loaded: Any) -> dict[str, Any]:
    """Tensors of a state_dict, or of the first wrapper around one."""
    if not isinstance(loaded, dict):
        return {}
    for wrapper in _WRAPPERS:
        if isinstance(loaded.get(wrapper), dict) and loaded[wrapper]:
            return _named_tensors(loaded[wrapper])
    return {str(name): value for name, value in loaded.items() if hasattr(value, "detach")}
