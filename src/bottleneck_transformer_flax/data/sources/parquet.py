"""Parquet files as the Hugging Face hub has them: the images' bytes in a column, the labels beside.

A folder, or the one folder in it, holds ``train-00000-of-00002.parquet`` and so on (older ones have
a digest before the ending), and the like with ``validation`` or ``test``; or folders of these names
hold ``0000.parquet`` and so on. Parquet is read a row group at a time, so an image from anywhere
costs the reading of some hundred others. In order that is no loss; for training, which reads in
random order, ``botnet data pack`` makes of it what is read image by image.
"""

import bisect
import functools
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int32

from bottleneck_transformer_flax.data.sources.stored import (
    DATA_EXTRA,
    OpenedOnce,
    StoredSource,
    distinct,
    require,
)
from bottleneck_transformer_flax.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_FILE_NAME = re.compile(r"(?P<part>.+?)(-\d+-of-(?P<total>\d+)(-[0-9a-f]+)?)?\.parquet")
# Of the row groups read last, in every process.
_KEPT_BYTES = 2**27


def find_files(folder: Path) -> Path | None:
    """The folder of the Parquet files or of those of each part: this one, or one in it, or none.

    Raises:
        DataError: when there are several.
    """
    if any(folder.glob("*.parquet")):
        return folder
    found = sorted({file.parent for file in folder.glob("*/*.parquet")})
    found = [folder for folder in found if not folder.name.startswith(".")]
    if len(found) > 1:
        if all(file.stem.isdecimal() for part in found for file in part.glob("*.parquet")):
            return folder
        raise DataError(
            f"{folder}: has Parquet files in {', '.join(repr(path.name) for path in found)}; name "
            "one of these folders"
        )
    return found[0] if found else None


class _Table(NamedTuple):
    """What a file says before any image is read."""

    group_rows: list[int]
    image_column: str
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...] | None


def open_parquet(folder: Path) -> dict[str, StoredSource]:
    """The parts of a data set, "train", "validation" and so on, from the folder of its files.

    A part without labels, as tests often are (all are -1), is left out.

    Raises:
        DataError: when files are missing or damaged, or columns are not as expected.
    """
    require("pyarrow", f"{folder}: a Parquet data set", DATA_EXTRA)
    files = _files_of(folder)
    tables = {part: [_describe(file) for file in files[part]] for part in files}
    # Of 0 where there are no labels, and so no class either.
    num_labels = {
        part: 1 + max(int(table.labels.max(initial=-1)) for table in tables[part]) for part in files
    }
    labelled = [part for part in files if num_labels[part]]
    if not labelled:
        raise DataError(f"{folder}: no image has a label; expected numbers from 0 on")
    class_names = _class_names(
        folder,
        {table.class_names for part in labelled for table in tables[part]},
        max(num_labels.values()),
    )
    return {
        part: _source(folder, part, list(zip(files[part], tables[part], strict=True)), class_names)
        for part in labelled
    }


def _source(
    folder: Path, part: str, tables: list[tuple[Path, _Table]], class_names: tuple[str, ...]
) -> StoredSource:
    labels = np.concatenate([table.labels for _, table in tables])
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise DataError(
            f"{folder}: {part} has labels from {labels.min()} to {labels.max()}; expected 0 to "
            f"{len(class_names) - 1}, one for each class"
        )
    names = [f"{file.name}/{row}" for file, table in tables for row in range(len(table.labels))]
    groups = [(str(file), table.group_rows) for file, table in tables]
    return StoredSource(
        reader=ParquetReader(groups, tables[0][1].image_column),
        positions=np.arange(len(names)),
        names=tuple(names),
        labels=labels,
        class_names=class_names,
        origin=str(folder),
    )


def part_names(folder: Path) -> list[str]:
    """What the parts are called, labelled or not.

    Raises:
        DataError: when files are missing.
    """
    return list(_files_of(folder))


def _files_of(folder: Path) -> dict[str, list[Path]]:
    """The files of every part, in order.

    Raises:
        DataError: when some are missing.
    """
    parts: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.parquet")) or sorted(folder.glob("*/*.parquet")):
        if match := _FILE_NAME.fullmatch(file.name):
            part = file.parent.name if file.stem.isdecimal() else match["part"]
            parts.setdefault(part, []).append(file)
    for part, files in parts.items():
        totals = {match["total"] for file in files if (match := _FILE_NAME.fullmatch(file.name))}
        if totals != {None} and totals != {f"{len(files):05}"}:
            raise DataError(
                f"{folder}: has {len(files)} files of {part}, the last of them "
                f"{files[-1].name}; expected as many as it says, so download the data set again"
            )
    return parts


def _describe(file: Path) -> _Table:
    """Read the labels and everything about a file.

    Raises:
        DataError: when it is damaged, or its columns are not as expected.
    """
    import pyarrow

    with _named(file):
        table = open_table(str(file))
        schema, metadata = table.schema_arrow, table.metadata
    image = _column(file, schema, IMAGE_COLUMNS)
    label = _column(file, schema, LABEL_COLUMNS)
    image_type, label_type = schema.field(image).type, schema.field(label).type
    if pyarrow.types.is_struct(image_type):
        image += ".bytes"
        image_type = next((field.type for field in image_type if field.name == "bytes"), None)
    if image_type not in (pyarrow.binary(), pyarrow.large_binary()):
        raise DataError(f"{file}: column {image} is {image_type}; expected bytes of image files")
    if not pyarrow.types.is_integer(label_type):
        raise DataError(f"{file}: column {label} is {label_type}; expected whole numbers")
    with _named(file):
        column = table.read(columns=[label]).column(0).cast(pyarrow.int32())
        labels = column.fill_null(-1).to_numpy()
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return _Table(groups, image, labels, _names_in(schema.metadata, label))


def _column(file: Path, schema: "pyarrow.Schema", names: tuple[str, ...]) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise DataError(
        f"{file}: has the columns {', '.join(schema.names)}; expected one called "
        f"{' or '.join(names)}"
    )


def _names_in(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """The names of the classes, where the hub has written them down."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return distinct(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _class_names(
    folder: Path, found: set[tuple[str, ...] | None], num_labels: int
) -> tuple[str, ...]:
    """What all files say the classes are called; numbers where they say nothing."""
    if len(found) > 1:
        raise DataError(f"{folder}: the files have different class names; expected the same in all")
    return found.pop() or tuple(map(str, range(num_labels)))


class ParquetReader:
    """Reads images by their row, through all files of a part.

    The row groups read last are kept, up to 128 MiB of them.
    """

    def __init__(self, files: list[tuple[str, list[int]]], image_column: str) -> None:
        """For files, each with the numbers of rows in its groups; opened when first needed."""
        self._files, self._image_column = files, image_column
        self._tables = [OpenedOnce(functools.partial(open_table, file)) for file, _ in files]
        self._groups = [
            (number, group) for number, (_, rows) in enumerate(files) for group in range(len(rows))
        ]
        self._ends = list(accumulate(count for _, rows in files for count in rows))
        self._kept: OrderedDict[int, pyarrow.Array] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["ParquetReader"], tuple[list[tuple[str, list[int]]], str]]:
        """Without what is open or kept."""
        return ParquetReader, (self._files, self._image_column)

    def read(self, position: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: when they cannot be read, or there are none.
        """
        group = bisect.bisect_right(self._ends, position)
        row = position - (self._ends[group - 1] if group else 0)
        with self._lock:
            content = self._read_group(group)[row].as_py()
        if content is None:
            file, _ = self._files[self._groups[group][0]]
            raise DataError(f"{file}: row {row} of group {self._groups[group][1]} has no image")
        return content

    def _read_group(self, group: int) -> "pyarrow.Array":
        """The images of one row group."""
        if group not in self._kept:
            file, number = self._groups[group]
            with _named(Path(self._files[file][0])):
                table = self._tables[file].get().read_row_group(number, [self._image_column])
                column = table.column(0).combine_chunks()
            self._kept[group] = column.field(0) if "." in self._image_column else column
            while len(self._kept) > 1 and sum(c.nbytes for c in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return self._kept[group]


def open_table(file: str) -> "ParquetFile":
    """A Parquet file, mapped into memory."""
    from pyarrow.parquet import ParquetFile

    return ParquetFile(file, memory_map=True)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Say of what file an error is."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{file}: cannot be read as Parquet: {reason}") from error
