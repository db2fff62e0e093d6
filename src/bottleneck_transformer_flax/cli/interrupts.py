"""What ``botnet train`` says and does in its own signal handler."""

import os
from typing import Any

live_lines = 1


def end_at_once(*_: Any) -> None:
    """Leave as at an unhandled Ctrl-C."""
    raise KeyboardInterrupt


def say_in_handler(line: str) -> None:
    """Write a line from a signal handler; on a terminal in place of a live display."""
    above = live_lines - 1
    _write_on_terminal(b"\r\x1b[2K" + b"\x1b[1A\x1b[2K" * above)
    os.write(2, f"{line}\n".encode())
    _write_on_terminal(b"\n" * above)


def _write_on_terminal(codes: bytes) -> None:
    terminal = next((stream for stream in (1, 2) if os.isatty(stream)), None)
    if terminal is not None:
        os.write(terminal, codes)
