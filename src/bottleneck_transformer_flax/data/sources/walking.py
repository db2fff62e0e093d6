"""Which files are below a folder of images: not the hidden ones, nor what this package wrote."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bottleneck_transformer_flax.errors import DataError, quoted, reraise
from bottleneck_transformer_flax.own_output import is_own_file, is_own_output

_MOST_OPENED = 20
"""Largest number of PNG and HTML files in one folder that are opened to see who wrote them."""


def files_below(
    folder: Path, own_output: list[str], parents: tuple[Path, ...] = ()
) -> Iterator[str]:
    """The visible files at any depth, as POSIX paths relative to the folder.

    Links are followed, but not to a folder that contains one of ``parents``; a link that leads
    nowhere counts as a file, which then cannot be read.

    Args:
        folder: where to search.
        own_output: gets the path of every folder, figure and report that this package wrote;
            figures among many other PNG files are left out when they are decoded.
        parents: real paths of the folders above.

    Raises:
        DataError: when a folder cannot be listed.
    """
    real = Path(os.path.realpath(folder))
    if any(parent.is_relative_to(real) for parent in parents):
        return
    entries = visible(folder)
    if holds_own_marker(folder, entries):
        own_output.append(str(folder))
        return
    own_files = _own_files(folder, entries)
    own_output += (str(folder / name) for name in own_files)
    for entry in entries:
        if entry.is_dir():
            below = files_below(folder / entry.name, own_output, (*parents, real))
            yield from (f"{entry.name}/{name}" for name in below)
        elif entry.name not in own_files and (entry.is_file() or entry.is_symlink()):
            yield entry.name


def left_out(paths: Iterable[str]) -> str:
    """Say of what this package wrote that it is not read."""
    return f"left out what botnet wrote: {quoted(paths)}"


def holds_own_marker(folder: Path, entries: Iterable["os.DirEntry[str]"]) -> bool:
    """Whether a folder with these entries is a run or a directory that this package wrote."""
    return is_own_output(folder, (entry.name for entry in entries))


def _own_files(folder: Path, entries: Iterable["os.DirEntry[str]"]) -> set[str]:
    """The names of the figures and reports that this package wrote, unless there are many files."""
    found = [entry for entry in entries if entry.name.lower().endswith((".png", ".html"))]
    if len(found) > _MOST_OPENED:
        return set()
    return {entry.name for entry in found if entry.is_file() and is_own_file(folder / entry.name)}


def visible(folder: Path) -> list["os.DirEntry[str]"]:
    """The entries of a folder that are not hidden."""
    with reraise(OSError, DataError, f"{folder}: cannot be listed"), os.scandir(folder) as entries:
        return [entry for entry in entries if not is_hidden(entry.name)]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or what macOS adds to a zip file."""
    return name.startswith(".") or name == "__MACOSX"
