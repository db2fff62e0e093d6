"""Fashion-MNIST as Debian's package ``dataset-fashion-mnist`` installs it: four idx files."""

import gzip
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from bottleneck_transformer_flax.errors import DataError, reraise

CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
IMAGE_SIZE = (28, 28)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FOLDER_VARIABLE = "BOTNET_FASHION_MNIST"
"""The environment variable that names another folder with the four files."""

_UINT32 = np.dtype(">u4")
# Values are bytes (0x08); the number of axes is added.
_MAGIC = 0x0800


class LabelledImages(NamedTuple):
    """Grey images in [0, 255] and their class numbers."""

    images: UInt8[np.ndarray, "b 28 28"]
    labels: UInt8[np.ndarray, " b"]


def default_folder() -> Path:
    """The folder of the idx files: what the environment variable names, or Debian's."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEBIAN_FOLDER)


def read_split(folder: Path, split: str) -> LabelledImages:
    """Read one split, ``"train"`` or ``"t10k"``, from its two ``.gz`` files.

    Raises:
        DataError: when a file is missing (with the remedy), damaged or no idx file, or when
            images and labels don't match.
    """
    images = _read_idx(folder / f"{split}-images-idx3-ubyte.gz", num_axes=3)
    labels = _read_idx(folder / f"{split}-labels-idx1-ubyte.gz", num_axes=1)
    if images.shape[1:] != IMAGE_SIZE:
        raise DataError(f"{folder}: {split} images are {images.shape[1:]}; expected {IMAGE_SIZE}")
    if len(images) != len(labels):
        raise DataError(f"{folder}: {split} has {len(images)} images but {len(labels)} labels")
    if len(labels) and labels.max() >= len(CLASS_NAMES):
        raise DataError(f"{folder}: {split} has label {labels.max()}; expected 0 to 9")
    return LabelledImages(images, labels)


def _read_idx(path: Path, *, num_axes: int) -> UInt8[np.ndarray, "..."]:
    """Read a gzipped idx file of bytes: magic number, one size an axis, then the values."""
    if not path.exists():
        raise DataError(
            f"{path}: no such file; install Fashion-MNIST with "
            f"`apt-get install dataset-fashion-mnist`, or set {FOLDER_VARIABLE} to a folder "
            "with its four idx .gz files"
        )
    caught = (OSError, EOFError, zlib.error, ValueError)
    with reraise(caught, DataError, f"{path}: cannot be read as a gzipped idx file"):
        content = gzip.decompress(path.read_bytes())
        magic, *shape = np.frombuffer(content, _UINT32, count=1 + num_axes).tolist()
        if magic != _MAGIC + num_axes:
            raise ValueError(f"magic number is {magic:#010x}; expected {_MAGIC + num_axes:#010x}")
        values = np.frombuffer(content, np.uint8, offset=_UINT32.itemsize * (1 + num_axes))
        return values.reshape(shape)
