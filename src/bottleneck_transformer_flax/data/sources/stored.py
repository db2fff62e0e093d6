"""Images that are stored many to a file: one source for every format, over its reader."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int32, Int64
from PIL import Image

from bottleneck_transformer_flax.decoding import EncodedImage
from bottleneck_transformer_flax.errors import DataError

Opened = TypeVar("Opened")


@runtime_checkable
class Reader(Protocol):
    """The images of one part in a file format; picklable, and used by several threads at once."""

    def read(self, position: int) -> bytes:
        """The bytes of one image, as they would be in a file of its own.

        Raises:
            DataError: when they cannot be read; the message names the file.
        """
        ...


@dataclass(frozen=True, eq=False)
class StoredSource:
    """Some or all of the images that a reader reads, decoded when they are asked for.

    Attributes:
        reader: gives the bytes.
        positions: of every image, its number for the reader.
        names: what the images are called, each once.
        labels: of every image, an index into ``class_names``.
        class_names: what the labels mean.
        origin: where they are stored, for messages.
    """

    reader: Reader
    positions: Int64[np.ndarray, " n"]
    names: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    origin: str

    @property
    def native_size(self) -> None:
        """None: the images may differ in size."""
        return None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)

    def content(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: when they cannot be read.
        """
        return self.reader.read(int(self.positions[index]))

    def open(self, index: int) -> EncodedImage:
        """One image, its pixels not yet decoded.

        Raises:
            DataError: when it cannot be read.
        """
        return EncodedImage(self.content(index), self.describe(index))

    def read(self, index: int) -> Image.Image:
        """One image, mode RGB.

        Raises:
            DataError: when it cannot be read or decoded.
        """
        return self.open(index).decode()

    def describe(self, index: int) -> str:
        """The image's name below the place where it is stored."""
        return f"{self.origin}/{self.names[index]}"

    def select(self, indices: Int64[np.ndarray, " m"]) -> "StoredSource":
        """Some of the images, in the order given."""
        return dataclasses.replace(
            self,
            positions=self.positions[indices],
            names=tuple(self.names[index] for index in indices.tolist()),
            labels=self.labels[indices],
        )


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Class names, each once: one that is there already gets its number, as "crane 517"."""
    made: dict[str, None] = {}
    for number, name in enumerate(names):
        while name in made:
            name = f"{name} {number}"
        made[name] = None
    return tuple(made)


class OpenedOnce(Generic[Opened]):
    """Something opened when it is first needed, in every process for itself.

    Pickled, it is only the way to open it.
    """

    def __init__(self, open_: Callable[[], Opened]) -> None:
        """Nothing is opened yet; ``open_`` must be picklable."""
        self._open = open_
        self._opened: Opened | None = None
        self._lock = threading.Lock()

    def get(self) -> Opened:
        """It, opened once however many threads ask."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def __reduce__(self) -> tuple[type["OpenedOnce[Opened]"], tuple[Callable[[], Opened]]]:
        """Without what is open."""
        return OpenedOnce, (self._open,)


def require(module: str, format_name: str, remedy: str) -> None:
    """See that a format's library is installed.

    Raises:
        DataError: when it is not, with the command that installs it.
    """
    if find_spec(module.partition(".")[0]) is None:
        raise DataError(f"{format_name} needs {module.partition('.')[0]}; install it with {remedy}")


DATA_EXTRA = "pip install 'bottleneck-transformer-flax[data]'"
