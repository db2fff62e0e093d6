"""Files and folders that are whole or not there at all: written beside, then renamed."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """Give an empty folder to fill; on leaving without an error it takes the place of another.

    On an error the folder is removed and what was at ``directory`` stays as it was.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    before = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    beside.mkdir()
    try:
        yield beside
        if directory.exists():
            directory.rename(before)
        beside.rename(directory)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if before.exists() and not directory.exists():
            before.rename(directory)
        shutil.rmtree(before, ignore_errors=True)


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Give the name of a file to write; on leaving without an error it takes the place of another.

    On an error it is removed and what was at ``path`` stays as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole: a reader sees the old text or the new."""
    with replaced_file(path) as beside:
        beside.write_text(text, encoding="utf-8")
