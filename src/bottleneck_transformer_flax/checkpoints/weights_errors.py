"""Files of weights that a library cannot read: what is wrong with them, in plain words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from bottleneck_transformer_flax.errors import BoTNetError, CheckpointError, reraise

_BEGINNINGS = {
    "safetensors": re.compile(rb".{8}\{", re.DOTALL),
    # A zip archive, or the magic number of PyTorch's older format, pickled.
    "PyTorch": re.compile(rb"PK\x03\x04|.{,20}l\xfc\x9cF\xf9 j\xa8P\x19", re.DOTALL),
}
_AGAIN = "copy or download it again"


@contextmanager
def reading_weights(
    path: Path, kind: Literal["safetensors", "PyTorch"], *, name: str = ""
) -> Iterator[None]:
    """Raise whatever a library raises while it reads a file as a CheckpointError in one line.

    Args:
        path: file that is read.
        kind: what it should be.
        name: name of the file in the message; by default its path.
    """
    try:
        yield
    except (BoTNetError, MemoryError):
        raise
    except Exception as error:
        # The libraries' errors share no base class, and their messages are about file formats.
        name = name or str(path)
        with (
            reraise(OSError, CheckpointError, f"{name} cannot be read", remedy=_AGAIN),
            path.open("rb") as file,
        ):
            start = file.read(32)
        if not start:
            problem = f"is empty; {_AGAIN}"
        elif _BEGINNINGS[kind].match(start):
            problem = f"is truncated or damaged; {_AGAIN}"
        else:
            problem = (
                f"is not a {kind} file; name another, or download it again if a web page or a "
                "pointer of Git LFS was saved in its place"
            )
        raise CheckpointError(f"{name} {problem}") from error
