"""Files and folders that appear whole or not at all: written under another name, then renamed."""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bottleneck_transformer_flax.errors import BoTNetError

_log = logging.getLogger(__name__)

UNFINISHED_FILES = ".*.new"
"""A glob pattern of the names that files and folders have while they are written."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write, which replaces ``path`` on leaving without an error.

    On an error ``path`` stays as it was.
    """
    with _written_beside(path) as beside:
        yield beside
        beside.replace(path)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which replaces ``path`` on leaving without an error.

    On an error ``path`` stays as it was.
    """
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    with _written_beside(path) as beside:
        beside.mkdir()
        yield beside
        try:
            if path.exists():
                path.rename(replaced)
            beside.rename(path)
        finally:
            if replaced.exists() and not path.exists():
                replaced.rename(path)
            _remove(replaced)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file: readers see the old text or the new."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file: readers see the old content or the new."""
    with atomic_file(path) as beside:
        beside.write_bytes(content)


def is_utf8(name: str) -> bool:
    """Whether a name can be written into a text file; a file's own name may be any bytes."""
    return name == name.encode(errors="replace").decode()


@contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; errors about it name ``path`` instead.

    Whatever still has the name on leaving is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield beside
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(beside)):
            raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        _remove(beside)


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` left beside it."""
    unfinished = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})\.(new|old)")
    for entry in path.parent.iterdir():
        if (match := unfinished.fullmatch(entry.name)) and not _is_another_process(int(match[1])):
            _remove(entry)


def _is_another_process(process_id: int) -> bool:
    # In a container, a process often has the same ID as the one that was killed before it.
    if process_id == os.getpid():
        return False
    if os.name == "nt":  # where os.kill would end the process
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, refusal: BoTNetError) -> Iterator[None]:
    """Hold an exclusive lock that other processes respect.

    On a file system without locks, such as some mounts of Lustre and NFS, it only warns.

    Args:
        path: a folder, or a file that is created if need be.
        refusal: what to raise while another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
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
                "%s cannot be locked (%s): make sure that no other process writes to it",
                path,
                error,
            )
        yield
    finally:
        os.close(descriptor)
