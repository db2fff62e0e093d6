"""Ctrl-C, wherever it falls: one line, no traceback, and the terminal as it was."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from bottleneck_transformer_flax.files import remove_unfinished

_CLEAR_LINE = b"\r\x1b[2K"
_CLEAR_LINE_ABOVE = b"\x1b[1A\x1b[2K"
_SHOW_CURSOR = b"\x1b[?25h"

live_lines = 1
"""Of the live display that is on the terminal; the cursor is in the last of them."""


@contextlib.contextmanager
def interrupts_end_it() -> Iterator[None]:
    """Let Ctrl-C end the program in one line.

    Raised as an exception, an interrupt is turned into others by libraries that it falls into, or
    gets lost in a callback. All files are written beside and then renamed, and what is beside is
    removed, so nothing is left half written. A command that has something to save installs its
    own handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, end_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_at_once(*_: Any) -> None:
    """End the program and its worker processes with exit code 1; a signal handler."""
    if "multiprocessing.process" in sys.modules:
        for worker in sys.modules["multiprocessing.process"].active_children():
            worker.terminate()
    remove_unfinished()
    # A live display has hidden the cursor, and nothing that would show it again runs any more.
    _write_on_terminal(_CLEAR_LINE + _CLEAR_LINE_ABOVE * (live_lines - 1) + _SHOW_CURSOR)
    os.write(2, b"botnet: error: interrupted\n")
    os._exit(1)


def say_in_handler(line: str) -> None:
    """Write a line from a signal handler, which may have fallen into any other writing.

    On a terminal it takes the place of a live display, which shows again below it.
    """
    above = live_lines - 1
    _write_on_terminal(_CLEAR_LINE + _CLEAR_LINE_ABOVE * above)
    os.write(2, f"{line}\n".encode())
    # Before it shows again, the display clears as many lines as it had, from the cursor upwards.
    _write_on_terminal(b"\n" * above)


def _write_on_terminal(codes: bytes) -> None:
    terminal = next((stream for stream in (1, 2) if os.isatty(stream)), None)
    if terminal is not None:
        os.write(terminal, codes)
