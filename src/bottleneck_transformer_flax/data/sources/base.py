"""Labelled images: what all sources share, whatever holds the images.

Importing this needs no jax, so that worker processes and tools stay light.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int32, Int64
from PIL import Image

from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.decoding import EncodedImage, OpenedImage
from bottleneck_transformer_flax.errors import DataError, quoted

TRAIN, VALIDATION, TEST, ALL = "train", "val", "test", "all"
"""Names of the parts of a data set; ``ALL`` is the only one of a data set without parts."""
VALIDATION_NAMES = (VALIDATION, "validation", "valid")
"""Names of the validation part in image folders."""

Part = TypeVar("Part")


class ImageSource(ABC):
    """Numbered images with labels; picklable, and readable from several threads at once.

    Attributes:
        class_names: names of the classes.
        labels: class of each image, an index into ``class_names``.
        names: unique name of each image within the source, such as "cat/12.jpg".
        notes: a sentence about each kind of thing beside the images that is not used.
        origin: where the images are from, as in "val/" or "held out of train/"; may be empty.
    """

    class_names: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    origin: str = ""

    @property
    def native_size(self) -> tuple[int, int] | None:
        """The (height, width) in pixels of all images when they are in memory, else None."""
        return None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    @abstractmethod
    def describe(self, index: int) -> str:
        """The path of one image, or its place in the data set, for messages."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The bytes of one image as a file, not yet decoded.

        Raises:
            DataError: when the image cannot be read; the message names it.
        """

    def open(self, index: int) -> OpenedImage:
        """One image, whose pixels are decoded on demand.

        Raises:
            DataError: when the image cannot be read; the message names it.
        """
        return EncodedImage(self.content(index), self.describe(index))

    def read(self, index: int) -> Image.Image:
        """One image, mode RGB.

        Raises:
            DataError: when the image cannot be read or decoded; the message names it.
        """
        return self.open(index).decode()


@dataclass(frozen=True, eq=False)
class Subset(ImageSource):
    """Images chosen from another source, in another order or with other labels.

    Attributes:
        source: source of the images.
        indices: position of each image in ``source``.
        labels: class of each image, an index into ``class_names``.
        class_names: names of the classes.
        origin: where the images are from, for the splits of a data set.
        names: name of each image in ``source``.
    """

    source: ImageSource
    indices: Int64[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    origin: str
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Take the names from the source."""
        names = tuple(self.source.names[index] for index in self.indices.tolist())
        object.__setattr__(self, "names", names)

    @property
    def native_size(self) -> tuple[int, int] | None:
        """The size that the source has."""
        return self.source.native_size

    def describe(self, index: int) -> str:
        """The description that the source gives."""
        return self.source.describe(int(self.indices[index]))

    def content(self, index: int) -> bytes:
        """The bytes that the source has."""
        return self.source.content(int(self.indices[index]))

    def open(self, index: int) -> OpenedImage:
        """The image that the source opens."""
        return self.source.open(int(self.indices[index]))


def select(source: ImageSource, indices: Int64[np.ndarray, " m"]) -> Subset:
    """Some images of a source, in the order given."""
    return Subset(source, indices, source.labels[indices], source.class_names, source.origin)


def relabel(source: ImageSource, class_names: tuple[str, ...]) -> ImageSource:
    """The same images with labels as indices into ``class_names``, matched by name.

    A class named by an ImageNet synset, as ImageNet's folders are, also matches that class's name.

    Raises:
        DataError: when the source has classes that ``class_names`` lacks.
    """
    if source.class_names == class_names:
        return source
    positions = {name: position for position, name in enumerate(class_names)}
    synsets = imagenet.names_of_synsets()
    names = [name if name in positions else synsets.get(name, name) for name in source.class_names]
    missing = [name for name in names if name not in positions]
    if missing:
        raise DataError(
            f"the data has classes that the model lacks: {quoted(missing)}; "
            f"the model's classes are {quoted(class_names)}"
        )
    new_labels = np.array([positions[name] for name in names], np.int32)
    labels = new_labels[source.labels]
    return Subset(source, np.arange(len(source)), labels, class_names, source.origin)


def choose_parts(folder: Path, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Name the parts of a data set as we do: ``ALL``, or ``TRAIN`` with one or two others.

    Raises:
        DataError: when there are several parts, but not ``TRAIN`` with those that we know.
    """
    if len(parts) == 1:
        return {ALL: next(iter(parts.values()))}
    validations = [name for name in VALIDATION_NAMES if name in parts]
    if len(validations) > 1:
        raise DataError(
            f"{folder}: has the parts {' and '.join(map(repr, validations))}; expected one "
            "validation part: remove the others"
        )
    validation = validations[0] if validations else VALIDATION
    names = {TRAIN: TRAIN, VALIDATION: validation, TEST: TEST}
    chosen = {ours: parts[theirs] for ours, theirs in names.items() if theirs in parts}
    if TRAIN not in chosen or len(chosen) == 1:
        raise DataError(
            f"{folder}: has the parts {', '.join(map(repr, parts))}; expected train, and one of "
            f"{', '.join((*VALIDATION_NAMES, TEST))}"
        )
    return chosen
