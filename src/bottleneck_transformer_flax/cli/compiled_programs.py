"""Programs that XLA compiled for one command are there for the next: JAX's persistent cache."""

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

FOLDER = Path("bottleneck_transformer_flax", "compiled")
"""Below the user's cache."""
LARGEST_BYTES = 512 * 2**20
_LEAST_COMPILE_SECONDS = 0.1
_NO = {"0", "false", "f", "no", "n", "off"}
_TROUBLE = re.compile("Error (reading|writing) persistent compilation cache entry for '(.*?)': ")


def keep_compiled_programs() -> None:
    """Let JAX keep what it compiles in the user's cache, and take it from there.

    For a command only: it sets environment variables, so call it before jax is imported. With
    ``JAX_COMPILATION_CACHE_DIR`` set, or ``JAX_ENABLE_COMPILATION_CACHE`` false, it leaves all to
    JAX. Where there can be no such folder, programs are compiled each time.
    """
    switch = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or switch.lower() in _NO:
        return
    try:
        folder = _users_cache() / FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whoever can write programs here can run them as this user.
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK) or _others_may_write(folder):
            return
        remove_least_recent(folder, LARGEST_BYTES)
    except (OSError, RuntimeError):
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    least = str(_LEAST_COMPILE_SECONDS)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", least)
    _mend_instead_of_warning(folder)


def _others_may_write(folder: Path) -> bool:
    status = folder.stat()
    of_another = hasattr(os, "getuid") and status.st_uid not in (os.getuid(), 0)
    return of_another or bool(status.st_mode & 0o022)


def remove_least_recent(folder: Path, largest_bytes: int) -> None:
    """Remove the files last read or written longest ago until the others are no more than this.

    JAX's own limit would need the package filelock, and fails for good where a process was killed
    between writing an entry and the time of its use.
    """
    files = []
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # another command removed it
        if path.is_file():
            files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total_bytes = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total_bytes <= largest_bytes:
            return
        path.unlink(missing_ok=True)
        total_bytes -= size


def _users_cache() -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def _mend_instead_of_warning(folder: Path) -> None:
    """Remove the entries of a program of which JAX cannot read or write one, but would only warn.

    It compiles the program then, as without a cache. What is removed is written anew.
    """
    show = warnings.showwarning

    def mend(message: Warning | str, *of_what: Any, **named: Any) -> None:
        trouble = _TROUBLE.match(str(message))
        if trouble is None:
            show(message, *of_what, **named)
            return
        for entry in folder.glob(f"{trouble[2]}-*-cache"):
            try:
                entry.unlink(missing_ok=True)
            except OSError:
                continue

    warnings.showwarning = mend
