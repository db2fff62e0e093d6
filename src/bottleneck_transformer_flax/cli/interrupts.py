"""What ``botnet train`` says and does in its own signal handler."""

import os

from bottleneck_transformer_flax.cli.startup import end_at_once

__all__ = ["end_at_once", "live_lines", "say_in_handler"]

live_lines = 1


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
