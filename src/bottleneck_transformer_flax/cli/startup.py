"""How a command's process is set up, before it imports anything else."""

import codecs
import ctypes
import logging
import os
import shutil
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path

from rich.control import Control

from bottleneck_transformer_flax.errors import one_line

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1

COMPILED = Path("bottleneck_transformer_flax", "compiled")
"""The folder of compiled programs, relative to the user's cache folder."""
MAX_COMPILED_BYTES = 512 * 2**20
_OFF = {"0", "false", "f", "no", "n", "off"}


def end_at_once(*_: object) -> None:
    """End the process with exit code 1 and one line; the handler of Ctrl-C.

    Nothing needs saving, for files are written under another name and then renamed, and worker
    processes end when nobody listens to them any more. Python's KeyboardInterrupt is no
    alternative: while jax is imported, or in a callback from XLA, it crashes the process or is lost
    one time in three.
    """
    if terminal := next((stream for stream in (1, 2) if os.isatty(stream)), None):
        # A progress bar has hidden the cursor, which is at the end of the bar.
        os.write(terminal, f"\n{Control.show_cursor(True)}".encode())
    os.write(2, b"botnet: error: interrupted\n")
    os._exit(1)


def explain_device_error(error: BaseException) -> str | None:
    """JAX's error about a device that is missing or too small, in one line; None for any other."""
    said = next(iter(str(error).splitlines()), "")
    platforms = os.environ.get("JAX_PLATFORMS")
    unavailable = "Unable to initialize backend" in said
    # For a platform whose package is missing, JAX asserts without a word.
    if platforms and (unavailable or isinstance(error, AssertionError)):
        import jax

        try:
            jax.devices()
        except (AssertionError, RuntimeError):
            why = f" ({said})" if said else ""
            return (
                f"JAX cannot compute on JAX_PLATFORMS={platforms}{why}; unset it, or install JAX's "
                "package for that platform"
            )
    if unavailable:  # JAX says what to do
        return said
    if "RESOURCE_EXHAUSTED" in said:
        return (
            f"a device has too little memory ({said}); try a smaller --batch-size or --image-size"
        )
    return None


def accept_any_text() -> None:
    """Let standard output and error take any text.

    A file name that is not valid text is written as its bytes, and a character that the encoding
    lacks as "?".
    """
    codecs.register_error("botnet", _encode_anyway)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="botnet")


def _encode_anyway(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    undecoded = all("\udc80" <= c <= "\udcff" for c in error.object[error.start : error.end])
    return codecs.lookup_error("surrogateescape" if undecoded else "replace")(error)


class _OneLine(logging.Formatter):
    """Writes a message in one line, whatever the names in it hold."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, with its line breaks escaped."""
        return one_line(super().format(record))


def show_log() -> None:
    """Print the package's log to standard error, one line per message."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("note: %(message)s"))
    logger = logging.getLogger(__name__.partition(".")[0])
    logger.handlers = [handler]
    # A library that configures the root logger would print everything a second time.
    logger.propagate = False
    # Orbax warns of what it then handles, and logs the errors that it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Matplotlib warns where it cannot keep its list of fonts, and draws all the same.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def keep_freed_memory() -> None:
    """Keep freed memory for the next allocation instead of returning it to the system.

    XLA on CPU allocates the temporary buffers of every step anew. By default glibc maps each large
    one from the system and unmaps it afterwards, so that a step begins with tens of thousands of
    page faults; keeping the memory takes a training step from 129–153 to 72 ms and T3's inference
    from 1,008 to 867 ms (benchmarks/NOTES.md). It does nothing without glibc. Call it before jax is
    imported.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST)):
        mallopt(parameter, value)


def keep_compiled_programs() -> None:
    """Point JAX's persistent compilation cache at a folder in the user's cache.

    It sets environment variables: call it before jax is imported. The user's own
    ``JAX_COMPILATION_CACHE_DIR`` and ``JAX_ENABLE_COMPILATION_CACHE`` take precedence.
    Without a private folder, programs are compiled each time.
    """
    switch = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or switch.lower() in _OFF:
        return
    try:
        folder = _user_cache() / COMPILED
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whoever can write programs here can run them as this user.
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK) or _others_may_write(folder):
            return
        empty_if_large(folder, MAX_COMPILED_BYTES)
    except (OSError, RuntimeError):
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    # JAX then compiles the program, as it would without a cache.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def empty_if_large(folder: Path, max_bytes: int) -> None:
    """Empty a folder whose files together exceed a size.

    JAX's own limit on its cache needs the package filelock, and fails for good in a folder where
    a process was killed while it wrote an entry.
    """
    if sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) > max_bytes:
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _others_may_write(folder: Path) -> bool:
    status = folder.stat()
    foreign = hasattr(os, "getuid") and status.st_uid not in (os.getuid(), 0)
    return foreign or bool(status.st_mode & 0o022)


def _user_cache() -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
