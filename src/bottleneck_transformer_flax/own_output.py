"""What this package writes among images, and how it recognises that.

Whatever reads a folder of images leaves it out, whichever command wrote it there. A folder is
recognised by a marker file, so that is among the first files that a command writes; a figure or a
report by its first bytes. Imports no jax.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SOFTWARE = "bottleneck-transformer-flax"
"""The value of "Software" in every picture, and the beginning of "format" in every marker but a
run's."""
RUNS = "runs"
"""Folder of runs, in the working directory."""
RUN_FILE = "run.json"
DESCRIPTION_FILE, PROGRESS_FILE = "dataset.json", "packing.json"
"""Descriptions of a packed data set, and of one whose packing is unfinished."""
CONFIG = "config.json"
"""The architecture, in a pretrained directory."""

_FIRST_BYTES = 1024
_FILE_MARKS = (
    f"tEXtSoftware\0{SOFTWARE}".encode(),
    f'<meta name="generator" content="{SOFTWARE}">'.encode(),
)
"""What the first bytes of every figure and every report hold."""
_MARKERS = {RUN_FILE, DESCRIPTION_FILE, PROGRESS_FILE, CONFIG}
_RUN_KEYS = {"data", "epochs", "optimization"}


def is_own_output(folder: Path, names: Iterable[str]) -> bool:
    """Whether a folder is a run, a packed data set or a pretrained directory, finished or not.

    Args:
        folder: the folder.
        names: names of its entries; no file is opened unless it is called like a marker.
    """
    found = _MARKERS.intersection(names)
    return any(has_our_format(folder / name) for name in found - {RUN_FILE}) or (
        RUN_FILE in found and _values(folder / RUN_FILE).keys() >= _RUN_KEYS
    )


def is_own_file(file: Path) -> bool:
    """Whether a file is a figure or a report that this package wrote."""
    try:
        with file.open("rb") as stream:
            start = stream.read(_FIRST_BYTES)
    except OSError:
        return False
    return any(mark in start for mark in _FILE_MARKS)


def has_our_format(file: Path) -> bool:
    """Whether a marker was written by this package, in any version of its format."""
    return str(_values(file).get("format")).startswith(SOFTWARE)


def has_timm_format(file: Path) -> bool:
    """Whether a ``config.json`` was written by timm."""
    return "architecture" in _values(file)


def _values(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none that can be read."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
