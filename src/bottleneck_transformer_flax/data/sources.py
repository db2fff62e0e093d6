"""Where labelled images come from: arrays in memory, folders on disk, and the data sets by name.

Importing this needs neither jax nor grain, so that worker processes and tools stay light.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from bottleneck_transformer_flax.data import fashion_mnist, imagenet
from bottleneck_transformer_flax.data.decoding import (
    DecodedImage,
    EncodedImage,
    OpenedImage,
    open_image,
)
from bottleneck_transformer_flax.data.folders import (
    Listing,
    check_fraction,
    list_classes,
    list_splits,
)
from bottleneck_transformer_flax.data.formats import only_part, open_stored, split_stored
from bottleneck_transformer_flax.data.stored import StoredSource
from bottleneck_transformer_flax.errors import DataError

EMBEDDED_FILE = "embedded/fashion_mnist_subset.npz"


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


class Splits(NamedTuple):
    """A data set: what to train on, what to measure on, and one line that describes both."""

    train: ImageSource
    test: ImageSource
    description: str


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
    for source in splits[:2]:
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
        f"{len(train)} training and {len(test)} test images, "
        f"{len(train.class_names)} classes ({origin})",
    )


def _shortened(names: tuple[str, ...], limit: int = 20) -> str:
    """The names in one line, the rest of a long list as a count."""
    shown = ", ".join(map(repr, names[:limit]))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
