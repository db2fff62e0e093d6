"""Parquet files with a column of image files, and one of labels.

Parquet is read a row group at a time, so one image out of order costs reading hundreds of others.
``botnet data pack`` reads these files in order, and writes files that training reads in random
order.
"""

import bisect
import functools
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int32

from bottleneck_transformer_flax.data.sources.base import (
    TRAIN,
    ImageSource,
    choose_parts,
)
from bottleneck_transformer_flax.data.sources.parquet_layout import files_by_part
from bottleneck_transformer_flax.errors import (
    DataError,
    first_of,
    quoted,
    require_extra,
    reraise,
)

if TYPE_CHECKING:
    import pyarrow

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


class RowGroup(NamedTuple):
    """Rows that are read together: the file, and the group's number in it."""

    file: str
    number: int


@dataclass(frozen=True, eq=False)
class ParquetSource(ImageSource):
    """One part, to be read in order: only the row group read last stays in memory.

    Attributes:
        groups: row groups of all files.
        starts: position of the first image of each group.
        image_column: name of the column of images.
        names: the file and row of each image.
        labels: class of each image, an index into ``class_names``.
        class_names: names of the classes.
        folder: the folder of the files.
        notes: a sentence about the parts that are not used.
    """

    groups: tuple[RowGroup, ...]
    starts: tuple[int, ...]
    image_column: str
    names: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    folder: Path
    notes: tuple[str, ...] = ()

    def describe(self, index: int) -> str:
        """The image's file and row."""
        return f"{self.folder}/{self.names[index]}"

    def content(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: when they cannot be read, or there are none.
        """
        position = bisect.bisect_right(self.starts, index) - 1
        group = self.groups[position]
        images = _read_images(group, self.image_column)
        content: bytes | None = images[index - self.starts[position]].as_py()
        if content is None:
            raise DataError(f"{self.describe(index)}: this row has no image")
        return content


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None for the hub's usual ones.

    Attributes:
        image: column of image files.
        label: column of labels: numbers, or the names of the classes.
    """

    image: str | None = None
    label: str | None = None


USUAL_COLUMNS = Columns()


class _Table(NamedTuple):
    """A file without its images.

    Attributes:
        file: the file.
        group_rows: number of rows of each group.
        image_column: name of the column of images.
        labels: class of each image, or -1.
        class_names: names of the classes; None where the file does not have them.
        by_name: whether labels are names in the file, and ``class_names`` are those that it uses.
    """

    file: Path
    group_rows: list[int]
    image_column: str
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...] | None
    by_name: bool


def open_parquet(folder: Path, columns: Columns = USUAL_COLUMNS) -> dict[str, ParquetSource]:
    """The parts of a data set, as ``choose_parts`` names them, from the folder of its files.

    A part without labels (all are -1 or null, as in many test parts) is left out, with a note.

    Args:
        folder: the folder of the files.
        columns: which columns hold the images and the labels.

    Raises:
        DataError: when files are missing or damaged, or columns are not as expected.
    """
    require_extra("data", ["pyarrow"], f"{folder}: a Parquet data set", DataError)
    parts = {
        part: [_read_table(file, columns) for file in files]
        for part, files in files_by_part(folder).items()
    }
    labelled = {part: tables for part, tables in parts.items() if _num_labels(tables)}
    if not labelled:
        raise DataError(f"{folder}: no image has a label; expected numbers from 0 on, or names")
    chosen = choose_parts(folder, labelled)
    unused = [part for part, tables in parts.items() if tables not in chosen.values()]
    if all(table.by_name for tables in chosen.values() for table in tables):
        chosen = _with_common_names(folder, chosen)
    tables = list(chain.from_iterable(chosen.values()))
    class_names = {table.class_names for table in tables}
    if len(class_names) > 1:
        raise DataError(f"{folder}: the files have different class names; expected the same in all")
    names = class_names.pop() or tuple(map(str, range(_num_labels(tables))))
    sources = {part: _join(folder, tables, names) for part, tables in chosen.items()}
    if unused:
        note = f"{folder}: parts without labels or of another name are not used: {quoted(unused)}"
        first = next(iter(sources))
        sources[first] = replace(sources[first], notes=(note,))
    return sources


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Class names made unique: a repeated one gets its label, as in "crane 517"."""
    made: dict[str, None] = {}
    for number, name in enumerate(names):
        while name in made:
            name = f"{name} {number}"
        made[name] = None
    return tuple(made)


def _with_common_names(folder: Path, parts: dict[str, list[_Table]]) -> dict[str, list[_Table]]:
    """The same tables with labels as positions among the names, sorted, of the training part."""
    used = {
        part: {name for table in tables for name in table.class_names or ()}
        for part, tables in parts.items()
    }
    names = tuple(sorted(used.get(TRAIN) or set().union(*used.values())))
    for part, others in used.items():
        if others - set(names):
            raise DataError(
                f"{folder}: {part} has the classes {first_of(sorted(others - set(names)))}, which "
                f"{TRAIN} lacks; expected only classes of {TRAIN}"
            )
    positions = {name: position for position, name in enumerate(names)}

    def renumbered(table: _Table) -> _Table:
        # The last one is for images without a label, -1.
        lookup = [*(positions[name] for name in table.class_names or ()), -1]
        labels = np.array(lookup, np.int32)[table.labels]
        return table._replace(labels=labels, class_names=names)

    return {part: list(map(renumbered, tables)) for part, tables in parts.items()}


def _num_labels(tables: list[_Table]) -> int:
    """One more than the highest label; 0 where no image has one."""
    return 1 + max(int(table.labels.max(initial=-1)) for table in tables)


def _join(folder: Path, tables: list[_Table], class_names: tuple[str, ...]) -> ParquetSource:
    """The images of a part's files, one file after the other."""
    for table in tables:
        file, labels = table.file, table.labels
        if missing := np.count_nonzero(labels == -1):
            count = f"({'null' if table.by_name else 'null or -1'}): {missing:,} of {len(labels):,}"
            raise DataError(f"{file}: images without a label {count}; remove these rows")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(class_names):
            raise DataError(
                f"{file}: has labels from {labels.min()} to {labels.max()}; expected 0 to "
                f"{len(class_names) - 1}, one for each class"
            )
    return ParquetSource(
        groups=tuple(
            RowGroup(str(table.file), number)
            for table in tables
            for number in range(len(table.group_rows))
        ),
        starts=(0, *accumulate(rows for table in tables for rows in table.group_rows))[:-1],
        image_column=tables[0].image_column,
        names=tuple(
            f"{table.file.name}/{row}" for table in tables for row in range(len(table.labels))
        ),
        labels=np.concatenate([table.labels for table in tables]),
        class_names=class_names,
        folder=folder,
    )


def _read_table(file: Path, columns: Columns) -> _Table:
    """Read the labels and the metadata of a file, and check its columns."""
    import pyarrow
    from pyarrow import types
    from pyarrow.parquet import ParquetFile

    with _damage_named(file):
        table = ParquetFile(file, memory_map=True)
        schema, metadata = table.schema_arrow, table.metadata
    image = _column(file, schema, columns.image, IMAGE_COLUMNS, "--image-column")
    label = _column(file, schema, columns.label, LABEL_COLUMNS, "--label-column")
    image_type, label_type = schema.field(image).type, schema.field(label).type
    if types.is_struct(image_type):
        image += ".bytes"
        image_type = next((field.type for field in image_type if field.name == "bytes"), None)
    if image_type not in (pyarrow.binary(), pyarrow.large_binary()):
        raise DataError(f"{file}: column {image} is {image_type}; expected bytes of image files")
    if types.is_dictionary(label_type):
        label_type = label_type.value_type
    by_name = types.is_string(label_type) or types.is_large_string(label_type)
    if not (by_name or types.is_integer(label_type) or types.is_boolean(label_type)):
        raise DataError(f"{file}: column {label} is {label_type}; expected integers or class names")
    with _damage_named(file):
        column = table.read(columns=[label]).column(0)
        column = column.cast(pyarrow.string() if by_name else pyarrow.int32()).combine_chunks()
    class_names = _names_in(schema.metadata, label)
    if by_name:
        encoded = column.dictionary_encode()
        column, class_names = encoded.indices, tuple(encoded.dictionary.to_pylist())
    labels = column.fill_null(-1).to_numpy()
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return _Table(file, groups, image, labels, class_names, by_name)


def _column(
    file: Path, schema: "pyarrow.Schema", given: str | None, usual: tuple[str, ...], option: str
) -> str:
    """The name of a column: the one given, or the first of the usual ones that is there."""
    for name in usual if given is None else (given,):
        if name in schema.names:
            return name
    expected = f"one called {' or '.join(usual)}, or its name in {option}"
    raise DataError(
        f"{file}: has the columns {', '.join(schema.names)}; expected "
        f"{expected if given is None else given}"
    )


def _names_in(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """Class names, if the metadata have them in the hub's form."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return distinct(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


@functools.lru_cache(maxsize=1)
def _read_images(group: RowGroup, image_column: str) -> "pyarrow.ChunkedArray":
    """The images of one row group."""
    from pyarrow.parquet import ParquetFile

    with _damage_named(Path(group.file)), ParquetFile(group.file, memory_map=True) as table:
        rows = table.read_row_group(group.number, [image_column])
    return rows.flatten().column(0)


def _damage_named(file: Path) -> AbstractContextManager[None]:
    """Turn pyarrow's exceptions into one error that names the file."""
    from pyarrow import ArrowException

    return reraise((ArrowException, OSError), DataError, f"{file}: cannot be read as Parquet")
