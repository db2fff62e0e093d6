"""One process at a time in a folder."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from bottleneck_transformer_flax.errors import BoTNetError

_log = logging.getLogger(__name__)


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
