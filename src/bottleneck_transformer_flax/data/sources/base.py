"""Where labelled images come from: arrays in memory, and files on disk.

Importing this needs neither jax nor grain, so that worker processes and tools stay light.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.data.sources.folder import Listing
from bottleneck_transformer_flax.decoding import (
    DecodedImage,
    EncodedImage,
    OpenedImage,
    open_image,
)
from bottleneck_transformer_flax.errors import DataError


@runtime_checkable
class ImageSource(Protocol):
    """Numbered images with labels; picklable, and readable from several threads at once."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels mean."""
        ...

    @property
    def labels(self) -> Int32[np.ndarray, " n"]:
        """Of every image, an index into ``class_names``."""
        ...

    @property
    def native_size(self) -> tuple[int, int] | None:
        """The (height, width) in pixels of all images when they are in memory, else None."""
        ...

    def __len__(self) -> int:
        """The number of images."""
        ...

    def open(self, index: int) -> OpenedImage:
        """One image, decoded when its pixels are asked for.

        Raises:
            DataError: when the image cannot be read; the message names it.
        """
        ...

    def read(self, index: int) -> Image.Image:
        """One image, mode RGB: ``open(index).decode()``.

        Raises:
            DataError: when the image cannot be read; the message names it.
        """
        ...

    def describe(self, index: int) -> str:
        """What to call one image in a message: its path, or its place in the data set."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory, all of one size.

    Attributes:
        images: grey (n, h, w) or RGB (n, h, w, 3) in [0, 255].
        labels: of every image, an index into ``class_names``.
        class_names: what the labels mean.
        name: what ``describe`` calls the images, such as "fashion-mnist test".
    """

    images: UInt8[np.ndarray, "n h w"] | UInt8[np.ndarray, "n h w 3"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    name: str = "array"

    @property
    def native_size(self) -> tuple[int, int]:
        """The (height, width) of every image in pixels."""
        return self.images.shape[1], self.images.shape[2]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def open(self, index: int) -> DecodedImage:
        """One image."""
        return DecodedImage(self.read(index))

    def read(self, index: int) -> Image.Image:
        """One image, mode RGB."""
        image = Image.fromarray(self.images[index])
        return image if image.mode == "RGB" else image.convert("RGB")

    def describe(self, index: int) -> str:
        """The image's place, as in "fashion-mnist test image 12"."""
        return f"{self.name} image {index}"


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded when they are read.

    Attributes:
        root: the folder that ``names`` start from.
        names: POSIX paths relative to ``root``; strings, which pickle far smaller than paths.
        labels: of every image, an index into ``class_names``.
        class_names: what the labels mean.
    """

    root: Path
    names: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]

    @classmethod
    def from_listing(cls, listing: Listing) -> "FolderSource":
        """All images of a listing, class after class."""
        counts = [len(images) for images in listing.names.values()]
        return cls(
            root=listing.root,
            names=tuple(name for images in listing.names.values() for name in images),
            labels=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            class_names=tuple(listing.names),
        )

    @property
    def native_size(self) -> None:
        """None: the files may differ in size."""
        return None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)

    def open(self, index: int) -> EncodedImage:
        """One image, decoded when its pixels are asked for.

        Raises:
            DataError: when the file cannot be read.
        """
        return open_image(self.describe(index))

    def read(self, index: int) -> Image.Image:
        """One image, mode RGB.

        Raises:
            DataError: when the file cannot be decoded.
        """
        return self.open(index).decode()

    def describe(self, index: int) -> str:
        """The image's path."""
        return str(self.root / self.names[index])


@dataclass(frozen=True, eq=False)
class RelabelledSource:
    """The images of another source with labels in another class list; see ``relabel``."""

    source: ImageSource
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]

    @property
    def native_size(self) -> tuple[int, int] | None:
        """As the source underneath."""
        return self.source.native_size

    def __len__(self) -> int:
        """The number of images."""
        return len(self.source)

    def open(self, index: int) -> OpenedImage:
        """As the source underneath."""
        return self.source.open(index)

    def read(self, index: int) -> Image.Image:
        """As the source underneath."""
        return self.source.read(index)

    def describe(self, index: int) -> str:
        """As the source underneath."""
        return self.source.describe(index)


def relabel(source: ImageSource, class_names: tuple[str, ...]) -> ImageSource:
    """The same images with labels as indices into ``class_names``, matched by name.

    A class that is named by an ImageNet synset, as ImageNet's folders are, goes by the name of
    its class as well.

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
            f"the data has classes that the model lacks: {', '.join(map(repr, missing))}; "
            f"the model's classes are {_shortened(class_names)}"
        )
    new_labels = np.array([positions[name] for name in names], np.int32)
    return RelabelledSource(source, new_labels[source.labels], class_names)


def _shortened(names: tuple[str, ...], limit: int = 20) -> str:
    """The names in one line, the rest of a long list as a count."""
    shown = ", ".join(map(repr, names[:limit]))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
