"""File names of pretrained directories, and where such a directory is. Imports no jax."""

import shlex
from importlib import resources
from pathlib import Path

from bottleneck_transformer_flax import own_output
from bottleneck_transformer_flax.errors import CheckpointError

FORMAT = f"{own_output.SOFTWARE}/1"
CONFIG, WEIGHTS = own_output.CONFIG, "model.safetensors"
PREPROCESSING, CLASSES, CARD = "preprocessing.json", "classes.json", "README.md"
REQUIRED = (CONFIG, WEIGHTS, PREPROCESSING, CLASSES)
FILES = (*REQUIRED, CARD)
EMBEDDED = ("botnet_tiny",)
"""Models that ship with the package."""


def find_pretrained(source: str | Path) -> Path:
    """Find the pretrained directory on this machine that a source names.

    Raises:
        CheckpointError: when there is none.
    """
    path = Path(source)
    if not str(source):
        raise CheckpointError("the name of the model is empty; expected a pretrained directory")
    if path.is_dir():
        for candidate in (path, path / "pretrained"):
            if (candidate / CONFIG).is_file():
                return candidate
        if (path / own_output.RUN_FILE).is_file():
            best = f", or name {path / 'best'}" if (path / "best" / CONFIG).is_file() else ""
            raise CheckpointError(
                f"the run in {source} is not finished; finish it with `botnet train --resume "
                f"--run-directory {shlex.quote(str(source))}`{best}"
            )
        raise CheckpointError(
            f"{source} is not a pretrained directory: it has no {CONFIG}; expected the folder "
            "that save_pretrained or a finished run wrote"
        )
    if str(source) in EMBEDDED:
        return Path(str(resources.files(__package__))) / "embedded" / str(source)
    if (path.parent / CONFIG).is_file() and path.is_file():
        raise CheckpointError(f"{source} is a file; name its folder, {path.parent}")
    if path.exists():
        command = f"botnet import {shlex.quote(str(source))} --variant VARIANT --out FOLDER"
        raise CheckpointError(
            f"{source} is a file; if it holds another project's weights, convert them with "
            f"`{command}`, and name FOLDER"
        )
    raise CheckpointError(
        f"{source} does not exist; expected a pretrained directory, a run's directory, a "
        "repository of the Hugging Face hub (owner/name, or owner/name@main if a folder is called "
        f"owner), or one of the package's own models: {', '.join(EMBEDDED)}"
    )
