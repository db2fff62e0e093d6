"""The data sets by name, and those in folders of any format: what to train and to measure on.

Importing this needs neither jax nor grain, so that worker processes and tools stay light.
"""

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from bottleneck_transformer_flax.data import fashion_mnist
from bottleneck_transformer_flax.data.formats import only_part, open_stored, split_stored
from bottleneck_transformer_flax.data.sources.base import ArraySource, FolderSource, ImageSource
from bottleneck_transformer_flax.data.sources.folder import (
    check_fraction,
    list_classes,
    list_splits,
)
from bottleneck_transformer_flax.data.sources.stored import StoredSource

EMBEDDED_FILE = "embedded/fashion_mnist_subset.npz"


class Splits(NamedTuple):
    """A data set: what to train on, what to measure on, and one line that describes both."""

    train: ImageSource
    validation: ImageSource
    test: ImageSource | None
    description: str


def load_splits(data: str, *, validation_fraction: float = 0.1, split_seed: int = 0) -> Splits:
    """Load a data set by its name or its folder.

    Args:
        data: "embedded" (6,000 + 1,000 images of Fashion-MNIST, in this package),
            "fashion-mnist" (all 70,000, as Debian installs them), or the path of an image
            folder or of one in another format (see ``formats``); "./embedded" is a folder of
            that name.
        validation_fraction: of a folder without a val/ or test/ part, the share of every class
            held out; in (0, 1).
        split_seed: chooses the images held out.

    Raises:
        ConfigError: when ``validation_fraction`` is not in (0, 1).
        DataError: when the data set is missing, incomplete or damaged.
    """
    check_fraction(validation_fraction)
    if data == "embedded":
        train, test = _embedded()
        return _describe(train, test, "embedded Fashion-MNIST subset")
    if data == "fashion-mnist":
        folder = fashion_mnist.default_folder()
        train = _fashion_mnist_source(*fashion_mnist.read_split(folder, "train"), "training")
        test = _fashion_mnist_source(*fashion_mnist.read_split(folder, "t10k"), "test")
        return _describe(train, test, "Fashion-MNIST")
    folder = Path(data)
    if parts := open_stored(folder):
        return _describe(*split_stored(folder, parts, validation_fraction, split_seed), data)
    listed_train, listed_test = list_splits(folder, validation_fraction, split_seed)
    passed_over = listed_train.passed_over + listed_test.passed_over
    return _describe(
        FolderSource.from_listing(listed_train),
        FolderSource.from_listing(listed_test),
        f"{data}; {passed_over} files that are no images passed over" if passed_over else data,
    )


def fingerprint(splits: Splits) -> str:
    """A hash of which images with which labels a data set has, whatever folder it is in."""
    digest = hashlib.sha256()
    for source in filter(None, (splits.train, splits.validation, splits.test)):
        names = source.names if isinstance(source, FolderSource | StoredSource) else ()
        record = (source.class_names, names, source.labels.tolist())
        digest.update(json.dumps(record).encode())
    return digest.hexdigest()


def load_folder_all(folder: str | Path) -> ImageSource:
    """All images of a folder that does not come in two parts, for evaluation.

    Raises:
        DataError: when the folder is missing, has no images, has an empty class folder, or is
            stored in several parts.
    """
    if parts := open_stored(Path(folder)):
        return only_part(Path(folder), parts)
    return FolderSource.from_listing(list_classes(Path(folder)))


def _embedded() -> tuple[ArraySource, ArraySource]:
    """The (training, test) images that ship with the package."""
    file = resources.files("bottleneck_transformer_flax.data").joinpath(EMBEDDED_FILE)
    with file.open("rb") as stream, np.load(stream) as arrays:
        train = _fashion_mnist_source(arrays["train_images"], arrays["train_labels"], "training")
        test = _fashion_mnist_source(arrays["test_images"], arrays["test_labels"], "test")
    return train, test


def _fashion_mnist_source(
    images: UInt8[np.ndarray, "n 28 28"], labels: UInt8[np.ndarray, " n"], split: str
) -> ArraySource:
    name = f"fashion-mnist {split}"
    return ArraySource(images, labels.astype(np.int32), fashion_mnist.CLASS_NAMES, name)


def _describe(train: ImageSource, test: ImageSource, origin: str) -> Splits:
    return Splits(
        train,
        test,
        None,
        f"{len(train)} training and {len(test)} test images, "
        f"{len(train.class_names)} classes ({origin})",
    )
