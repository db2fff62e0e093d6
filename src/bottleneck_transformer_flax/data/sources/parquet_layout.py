"""Where the Parquet files of a data set are, as repositories of the Hugging Face hub hold them.

A folder holds ``train-00000-of-00002.parquet`` and so on (older ones have a digest before the
suffix), likewise for ``validation`` or ``test``; or folders of these names hold ``0000.parquet``
and so on. In the clone of a repository, that folder is below the root, and called ``data``,
``default`` or as a configuration of the data set.
"""

import re
from pathlib import Path

from bottleneck_transformer_flax.data.sources.base import TEST, TRAIN, VALIDATION_NAMES
from bottleneck_transformer_flax.data.sources.walking import is_hidden
from bottleneck_transformer_flax.errors import DataError, first_of, quoted

_PART_NAMES = (TRAIN, *VALIDATION_NAMES, TEST)
_FILE_NAME = re.compile(r"(?P<part>.+?)(-\d+-of-(?P<total>\d+)(-[0-9a-f]+)?)?\.parquet")


def find_data_set(folder: Path) -> Path | None:
    """The folder with a data set's Parquet files: this one or one below; None without any.

    Raises:
        DataError: when several folders hold Parquet files that are not parts of one data set.
    """
    if _visible_files(folder, "*.parquet"):
        return folder
    below = {file.parent for file in _visible_files(folder, "*/*.parquet")}
    if below and all(_is_part(parent) for parent in below):
        return folder
    # By name: listing all folders at this depth would take long where they hold a million images.
    found = below | {
        file.parents[1]
        for part in _PART_NAMES
        for file in _visible_files(folder, f"*/{part}/*.parquet")
    }
    if len(found) > 1:
        names = quoted({parent.name for parent in found})
        example = min(found)
        raise DataError(
            f"{folder}: has Parquet files in {names}, which are data sets of their own; name one "
            f"of them, such as {example}"
        )
    return found.pop() if found else None


def _is_part(folder: Path) -> bool:
    """Whether a folder of Parquet files is one part of a data set."""
    numbered = all(file.stem.isdecimal() for file in _visible_files(folder, "*.parquet"))
    return numbered or folder.name in _PART_NAMES


def files_by_part(folder: Path) -> dict[str, list[Path]]:
    """The files of every part, in order; none may be missing."""
    parts: dict[str, list[Path]] = {}
    for file in _visible_files(folder, "*.parquet") or _visible_files(folder, "*/*.parquet"):
        if match := _FILE_NAME.fullmatch(file.name):
            part = file.parent.name if file.stem.isdecimal() else match["part"]
            parts.setdefault(part, []).append(file)
    for part, files in parts.items():
        totals = {match["total"] for file in files if (match := _FILE_NAME.fullmatch(file.name))}
        if totals != {None} and totals != {f"{len(files):05}"}:
            found = first_of([file.name for file in files])
            raise DataError(
                f"{folder}: files of {part} are missing, or of several versions; found {found}; "
                "download the data set again"
            )
    return parts


def _visible_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern that neither are hidden nor lie in a hidden folder, sorted."""
    files = sorted(folder.glob(pattern))
    return [file for file in files if not any(map(is_hidden, file.relative_to(folder).parts))]
