"""Files and folders that are whole or not there at all: written beside, then renamed."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bottleneck_transformer_flax.errors import BoTNetError

_log = logging.getLogger(__name__)

UNFINISHED_FILES = ".*.new"
"""A pattern of the names that files have while they are written."""

_unfinished: set[Path] = set()


def remove_unfinished() -> None:
    """Remove what is being written, for who ends the program without leaving the contexts."""
    for path in list(_unfinished):
        _remove(path)


@contextlib.contextmanager
def atomic_directory(directory: Path) -> Iterator[Path]:
    """Give an empty folder to fill; on leaving without an error it takes the place of another.

    On an error the folder is removed and what was at ``directory`` stays as it was.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    before = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    # Left behind by a process that was killed, whose number this one has: in a container often 1.
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        _unfinished.add(beside)
        yield beside
        # Whole from here on, and for a moment the only one under way to its name.
        _unfinished.discard(beside)
        if directory.exists():
            directory.rename(before)
        beside.rename(directory)
    except OSError as error:
        raise _named(error, beside, directory) from error
    finally:
        _remove(beside)
        if before.exists() and not directory.exists():
            before.rename(directory)
        shutil.rmtree(before, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give the name of a file to write; on leaving without an error it takes the place of another.

    On an error it is removed and what was at ``path`` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    _unfinished.add(beside)
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        raise _named(error, beside, path) from error
    finally:
        _remove(beside)


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Give an empty folder that is gone on leaving, and when the program is interrupted."""
    folder = Path(tempfile.mkdtemp())
    _unfinished.add(folder)
    try:
        yield folder
    finally:
        _remove(folder)


def write_text(path: Path, text: str) -> None:
    """Write a file whole: a reader sees the old text or the new."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole: a reader sees the old content or the new."""
    with atomic_file(path) as beside:
        beside.write_bytes(content)


def _named(error: OSError, beside: Path, meant: Path) -> OSError:
    """The same error by the name that whoever wrote knows, where it is of what was written."""
    if error.filename is None or str(error.filename).startswith(str(beside)):
        return type(error)(error.errno, error.strerror or str(error), str(meant))
    return error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    _unfinished.discard(path)


@contextlib.contextmanager
def locked(path: Path, refusal: BoTNetError) -> Iterator[None]:
    """Keep other processes from the same meanwhile.

    Where the file system knows no locks, as Lustre and NFS may be mounted, this is a warning.

    Args:
        path: a folder, or a file that is made where there is none.
        refusal: what is raised where another process has the lock.

    Raises:
        BoTNetError: ``refusal``.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise refusal from error
        except OSError as error:
            _log.warning(
                "%s cannot be locked (%s): see that no other process writes there", path, error
            )
        yield
    finally:
        os.close(descriptor)
