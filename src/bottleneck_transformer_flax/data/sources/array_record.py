"""A packed data set: images in a few large files, which are read in any order.

``botnet data pack`` writes it as a folder::

    dataset.json                                description; written last
    train/part-00000-of-00016.arrayrecord       images
    train/labels.npy                            int32 index into the class names, by image
    train/names.json                            list of the images' names
    val/…, test/…                               the same

A data set without parts has the folder ``all/`` alone, and is split by name like an image folder.
Images are numbered through the files of a part. Each ArrayRecord file holds msgpack maps of
``name`` (string), ``label`` (integer) and ``image`` (the bytes of the original image file).
``dataset.json`` holds the class names, and for every file its number of images, its size in bytes
and its SHA-256 digest.
"""

import json
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from bottleneck_transformer_flax.data.sources.base import ALL, ImageSource
from bottleneck_transformer_flax.errors import DataError, reason, require_extra, reraise
from bottleneck_transformer_flax.own_output import DESCRIPTION_FILE, SOFTWARE

if TYPE_CHECKING:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

LABELS_FILE = "labels.npy"
NAMES_FILE = "names.json"
FORMAT = f"{SOFTWARE} packed images"
VERSION = 1
_REMEDY = "copy the data set again, or run the botnet data pack that wrote it once more"


class Record(NamedTuple):
    """One image as it is packed."""

    name: str
    label: int
    image: bytes


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of images, as ``dataset.json`` describes it.

    Attributes:
        file: POSIX path below the data set's folder.
        images: number of images.
        bytes: size of the file.
        sha256: digest of the file.
        left_out: for each image left out because it cannot be read, its name → the reason.
    """

    file: str
    images: int
    bytes: int
    sha256: str
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Description:
    """The contents of ``dataset.json``.

    Attributes:
        source: digest of the images packed and of the files they go to.
        class_names: names of the classes.
        parts: the files of each part, in the order of the images.
    """

    source: str
    class_names: tuple[str, ...]
    parts: dict[str, tuple[Shard, ...]]

    def to_json(self) -> dict[str, Any]:
        """The description as plain JSON values."""
        return {"format": FORMAT, "version": VERSION} | asdict(self)


def encode_record(record: Record) -> bytes:
    """A record as msgpack; names that are not UTF-8 keep their bytes."""
    import msgpack

    return msgpack.packb(record._asdict(), unicode_errors="surrogateescape")


def decode_record(content: bytes) -> Record:
    """The inverse of ``encode_record``."""
    import msgpack

    return Record(**msgpack.unpackb(content, unicode_errors="surrogateescape"))


def is_packed(folder: Path) -> bool:
    """Whether a folder has our ``dataset.json``, or one too damaged to tell."""
    try:
        values = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return isinstance(values, dict) and values.get("format") == FORMAT


def read_description(file: Path) -> Description:
    """Read ``dataset.json``.

    Raises:
        DataError: when it is damaged, or of another project or a later version.
    """
    with reraise(
        (OSError, ValueError, TypeError, KeyError, AttributeError),
        DataError,
        f"{file}: cannot be read as the description of a packed data set",
        remedy="pack the data again with botnet data pack",
    ):
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        if values.pop("version") != VERSION:
            raise ValueError(f"its version is not {VERSION}; a later version of botnet wrote it")
        parts = {
            name: tuple(Shard(**shard) for shard in shards)
            for name, shards in values["parts"].items()
        }
        class_names = tuple(values["class_names"])
        return Description(source=values["source"], class_names=class_names, parts=parts)


@dataclass(frozen=True, eq=False)
class PackedSource(ImageSource):
    """One part of a packed data set.

    Attributes:
        records: records of all files; each file is opened when it is first read from.
        names: name of each image.
        labels: class of each image, an index into ``class_names``.
        class_names: names of the classes.
        folder: the data set's folder.
        part: name of the part.
        shards: the files.
        origin: name of the part's folder, or of the data set's where there are no parts.
    """

    records: "ArrayRecordDataSource"
    names: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    folder: Path
    part: str
    shards: tuple[Shard, ...]
    origin: str = ""

    def describe(self, index: int) -> str:
        """The image's name below the folder of its part."""
        return f"{self.folder / self.part}/{self.names[index]}"

    def content(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: when the file is damaged there.
        """
        try:
            return decode_record(self.records[index]).image
        except RuntimeError as error:
            ends = accumulate(shard.images for shard in self.shards)
            file = next(s.file for s, end in zip(self.shards, ends, strict=True) if index < end)
            what = f"{self.folder / file}: {self.names[index]} cannot be read"
            raise DataError(f"{what}: {reason(error)}; {_REMEDY}") from error


def open_packed(folder: Path) -> dict[str, PackedSource]:
    """The parts of a packed data set.

    Raises:
        DataError: when a file is missing, or not as it was written.
    """
    require_extra("data", ["array_record"], f"{folder}: a packed data set", DataError)
    description = read_description(folder / DESCRIPTION_FILE)
    return {
        part: _open_part(folder, part, shards, description.class_names)
        for part, shards in description.parts.items()
    }


def open_records(files: list[str]) -> "ArrayRecordDataSource":
    """Open ArrayRecord files, whose records several threads may read in any order.

    A file given as "FILE[0:COUNT]" is opened when it is first read from.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    # Records are read one by one in random order: threads that read ahead would be wasted.
    return ArrayRecordDataSource(files, reader_options={"max_parallelism": "0"})


def _open_part(
    folder: Path, part: str, shards: tuple[Shard, ...], class_names: tuple[str, ...]
) -> PackedSource:
    for shard in shards:
        file = folder / shard.file
        with reraise(OSError, DataError, str(file), remedy=_REMEDY):
            size = file.stat().st_size
        if size != shard.bytes:
            raise DataError(f"{file}: has {size} bytes; expected {shard.bytes}; {_REMEDY}")
    with reraise((OSError, ValueError), DataError, f"{folder / part}", remedy=_REMEDY):
        labels = np.load(folder / part / LABELS_FILE).astype(np.int32)
        names = tuple(json.loads((folder / part / NAMES_FILE).read_text(encoding="utf-8")))
    count = sum(shard.images for shard in shards)
    if not len(names) == len(labels) == count > 0:
        raise DataError(
            f"{folder / part}: {LABELS_FILE} has {len(labels)} images and {NAMES_FILE} "
            f"{len(names)}, but the files have {count}; {_REMEDY}"
        )
    if not 0 <= labels.min() <= labels.max() < len(class_names):
        raise DataError(
            f"{folder / part / LABELS_FILE}: has labels from {labels.min()} to {labels.max()} but "
            f"there are {len(class_names)} classes; {_REMEDY}"
        )
    return PackedSource(
        records=open_records([f"{folder / shard.file}[0:{shard.images}]" for shard in shards]),
        names=names,
        labels=labels,
        class_names=class_names,
        folder=folder,
        part=part,
        shards=shards,
        origin=f"{folder.resolve().name if part == ALL else part}/",
    )
