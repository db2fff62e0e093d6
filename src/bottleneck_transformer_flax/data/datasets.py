"""Data sets by name or folder: the images to train on, to validate on, and to test on.

Importing this needs no jax, so that worker processes and tools stay light.
"""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from bottleneck_transformer_flax.data import fashion_mnist
from bottleneck_transformer_flax.data.sources import array_record, folder, parquet, parquet_layout
from bottleneck_transformer_flax.data.sources.base import (
    ALL,
    TEST,
    TRAIN,
    VALIDATION,
    ImageSource,
    choose_parts,
    select,
)
from bottleneck_transformer_flax.data.sources.memory import ArraySource
from bottleneck_transformer_flax.data.sources.parquet import USUAL_COLUMNS, Columns
from bottleneck_transformer_flax.errors import ConfigError, DataError, one_line, quoted
from bottleneck_transformer_flax.own_output import DESCRIPTION_FILE, PROGRESS_FILE, has_our_format

EMBEDDED_FILE = "embedded/fashion_mnist_subset.npz"
NAMED_DATA_SETS = {"embedded": "embedded Fashion-MNIST subset", "fashion-mnist": "Fashion-MNIST"}
"""Data sets that have a name instead of a path, and how they are described."""


class Splits(NamedTuple):
    """A data set as training uses it.

    Attributes:
        train: images to train on.
        validation: images scored during training, if any are held out.
        test: images scored once, at the end, if the data set has such a part.
        description: the data set in one line.
        notes: a sentence about each kind of thing in the data set that is not used or scored.
    """

    train: ImageSource
    validation: ImageSource | None
    test: ImageSource | None
    description: str
    notes: tuple[str, ...] = ()

    def counts(self, *, origins: bool = True) -> list[str]:
        """The number of images in each split, as in "90 validation (val/)"."""
        words = ("training", "validation", "test")
        return [
            f"{len(source):,} {named_split(word, source.origin if origins else '')}"
            for word, source in zip(words, self[:3], strict=True)
            if source is not None
        ]


def named_split(split: str, origin: str | None) -> str:
    """A split with the origin of its images, as in "validation (val/)"."""
    return f"{split} ({origin})" if origin else split


def scored_split(evaluation: Mapping[str, Any]) -> str:
    """The split that an ``evaluation.json`` is of; those of earlier commits have no origin."""
    return named_split(evaluation["split"], evaluation.get("origin"))


def load_splits(data: str, *, validation_fraction: float = 0.1, split_seed: int = 0) -> Splits:
    """Load a data set to train on, and hold out a validation split where it comes without one.

    Args:
        data: "embedded" (6,000 + 1,000 images of Fashion-MNIST, in this package),
            "fashion-mnist" (all 70,000, as Debian installs them), or the path of an image folder
            or a packed data set; "./embedded" is a folder of that name.
        validation_fraction: fraction of every class to hold out where the data set has no
            validation part, in [0, 1); with 0, training has all images.
        split_seed: decides which images are held out.

    Raises:
        ConfigError: when ``validation_fraction`` is not in [0, 1).
        DataError: when the data set is missing, incomplete, damaged, or in Parquet files.
    """
    if not 0 <= validation_fraction < 1:
        raise ConfigError(
            f"validation_fraction is {validation_fraction}; expected a number in [0, 1), for "
            "example 0.1, or 0 to train on all images"
        )
    parts = load_parts(data)
    train = parts[ALL] if ALL in parts else parts[TRAIN]
    validation, test = parts.get(VALIDATION), parts.get(TEST)
    if len(train.class_names) < 2:
        raise DataError(
            f"{data}: only one class, {train.class_names[0]!r}; classification needs at least two"
        )
    if validation is None and validation_fraction > 0:
        train, validation = split_by_name(train, validation_fraction, split_seed, origin=data)
    splits = Splits(train, validation, test, "")
    notes = [note for part in parts.values() for note in part.notes]
    return splits._replace(
        description=_describe(data, parts, splits), notes=(*notes, *_unscored_classes(splits))
    )


def load_folder_all(path: str | Path) -> ImageSource:
    """All images of a data set without parts, for evaluation.

    Raises:
        DataError: as ``load_parts`` does, and when the data set comes in parts.
    """
    parts = load_parts(str(path))
    if ALL not in parts:
        raise DataError(f"{path}: comes in parts ({', '.join(parts)}); expected only one")
    return parts[ALL]


def load_parts(
    data: str, *, in_order: bool = False, columns: Columns = USUAL_COLUMNS
) -> dict[str, ImageSource]:
    """The parts of a data set: "train" with "val", "test" or both, or "all".

    Args:
        data: as for ``load_splits``.
        in_order: whether the images will only be read in order, as packing does. Parquet files
            require it: one image out of order costs reading hundreds of others.
        columns: which columns of Parquet files hold the images and the labels.

    Raises:
        ConfigError: when columns are named, but there are no Parquet files.
        DataError: when the data set is missing, incomplete, damaged, or in Parquet files that
            would be read in random order.
    """
    path = Path(data)
    if columns != USUAL_COLUMNS and parquet_layout.find_data_set(path) is None:
        raise ConfigError(
            f"{data} has no Parquet files, and no others have columns; leave out --image-column "
            "and --label-column"
        )
    if data == "embedded":
        return _embedded()
    if data == "fashion-mnist":
        source = fashion_mnist.default_folder()
        return {
            TRAIN: _fashion_mnist(*fashion_mnist.read_split(source, "train"), "training"),
            TEST: _fashion_mnist(*fashion_mnist.read_split(source, "t10k"), "test"),
        }
    if array_record.is_packed(path):
        return choose_parts(path, array_record.open_packed(path))
    _check_not_half_packed(path)
    if parquet_folder := parquet_layout.find_data_set(path):
        if not in_order:
            raise DataError(
                f"{data}: holds Parquet files, which are too slow to read in random order; run "
                f"botnet data pack {shlex.quote(data)} PACKED, and name the folder PACKED instead"
            )
        return dict(parquet.open_parquet(parquet_folder, columns))
    return dict(folder.open_folder(path))


def _check_not_half_packed(path: Path) -> None:
    if has_our_format(path / PROGRESS_FILE):
        raise DataError(f"{path}: its packing is unfinished; repeat the same botnet data pack")
    # By name: listing every folder would take long where they hold a million images.
    if any(
        (path / part / array_record.LABELS_FILE).is_file()
        for part in (TRAIN, VALIDATION, TEST, ALL)
    ):
        raise DataError(
            f"{path}: has ArrayRecord files but no {DESCRIPTION_FILE} of botnet data "
            "pack; copy the whole data set again, or pack the images into a new folder"
        )


def comes_in_parts(data: str) -> bool:
    """Whether a data set comes in parts rather than as one folder of classes; reads only names."""
    path = Path(data)
    if array_record.is_packed(path):
        return not (path / ALL).is_dir()
    return not path.is_dir() or TRAIN in folder.find_parts(path)


def fingerprint(splits: Splits) -> str:
    """A digest of the names and labels of each split's images, wherever they are stored."""
    digest = hashlib.sha256()
    for source in (splits.train, splits.validation, splits.test):
        if source is not None:
            record = (source.class_names, source.names, source.labels.tolist())
            digest.update(json.dumps(record).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def image_keys(source: ImageSource) -> list[tuple[str, str]]:
    """What identifies each image: the name of its class, and its own."""
    pairs = zip(source.labels.tolist(), source.names, strict=True)
    return [(source.class_names[label], name) for label, name in pairs]


def digest_images(source: ImageSource) -> str:
    """A digest of the classes and names of a source's images, in any order, place and format."""
    return hashlib.sha256(json.dumps(sorted(image_keys(source))).encode()).hexdigest()


def digest_splits(splits: Splits) -> dict[str, str]:
    """The digest of each split's images, by the name of the split."""
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: digest_images(source) for name, source in named.items() if source is not None}


def split_by_name(
    source: ImageSource, fraction: float, seed: int, *, origin: str
) -> tuple[ImageSource, ImageSource]:
    """Split a source into (training, validation), both with images of every class.

    The split of an image depends only on the seed and the names in its class, which are ordered by
    their hashes: it is the same on every machine and for every copy of the data, packed or not.

    Raises:
        DataError: when a class has only one image; the message begins with ``origin``.
    """
    order = np.argsort(source.labels, kind="stable")
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    if single := [source.class_names[label] for label in np.flatnonzero(counts == 1)]:
        raise DataError(
            f"{origin}: only one image for {quoted(single)}; a split needs at least "
            "two in every class: add images, make train/ and val/ yourself, or hold none out with "
            "--validation-fraction 0"
        )

    def rank(index: int) -> bytes:
        name = f"{seed}\0{source.names[index]}"
        return hashlib.sha256(name.encode(errors="surrogateescape")).digest()

    train: list[int] = []
    validation: list[int] = []
    for indices in map(np.ndarray.tolist, np.split(order, np.cumsum(counts)[:-1])):
        if not indices:
            continue
        count = min(max(round(len(indices) * fraction), 1), len(indices) - 1)
        held_out = set(sorted(indices, key=rank)[:count])
        train += [index for index in indices if index not in held_out]
        validation += [index for index in indices if index in held_out]
    rest = select(source, np.array(validation))
    rest = dataclasses.replace(rest, origin=f"held out of {source.origin or 'the training images'}")
    return select(source, np.array(train)), rest


def _embedded() -> dict[str, ImageSource]:
    """The images that ship with the package."""
    file = resources.files("bottleneck_transformer_flax.data").joinpath(EMBEDDED_FILE)
    with file.open("rb") as stream, np.load(stream) as arrays:
        return {
            TRAIN: _fashion_mnist(arrays["train_images"], arrays["train_labels"], "training"),
            VALIDATION: _fashion_mnist(arrays["test_images"], arrays["test_labels"], "validation"),
        }


def _fashion_mnist(
    images: UInt8[np.ndarray, "n 28 28"], labels: UInt8[np.ndarray, " n"], part: str
) -> ArraySource:
    name = f"fashion-mnist {part}"
    return ArraySource(images, labels.astype(np.int32), fashion_mnist.CLASS_NAMES, name)


def _unscored_classes(splits: Splits) -> Iterator[str]:
    """A sentence about each split to score that lacks images of some classes."""
    for split, source in (("validation", splits.validation), ("test", splits.test)):
        if source is None:
            continue
        counts = np.bincount(source.labels, minlength=len(source.class_names))
        if missing := [source.class_names[label] for label in np.flatnonzero(counts == 0)]:
            yield (
                f"{named_split(split, source.origin)} has no images of {quoted(missing)}, and "
                f"cannot score {'this class' if len(missing) == 1 else 'these classes'}"
            )


def _describe(data: str, parts: Mapping[str, ImageSource], splits: Splits) -> str:
    """The data set in one line."""
    counts = splits.counts(origins=ALL not in parts)
    images = " and ".join(filter(None, (", ".join(counts[:-1]), counts[-1])))
    num_classes = len(next(iter(parts.values())).class_names)
    return one_line(f"{images} images, {num_classes} classes ({NAMED_DATA_SETS.get(data, data)})")
