"""Where pretrained directories are, and what is in them. No jax."""

import json
from importlib import resources
from pathlib import Path

from bottleneck_transformer_flax.errors import CheckpointError

FORMAT = "bottleneck-transformer-flax/1"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSING, CLASSES, CARD = "preprocessing.json", "classes.json", "README.md"
FILES = (CONFIG, WEIGHTS, PREPROCESSING, CLASSES, CARD)
EMBEDDED = ("botnet_tiny",)
"""The models that ship with the package."""


def find_pretrained(source: str | Path) -> Path:
    """The pretrained directory on this machine that a source means; see ``load_pretrained``.

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
        raise CheckpointError(
            f"{source} is not a pretrained directory: it has no {CONFIG}; expected the folder "
            "that save_pretrained or a finished run wrote"
        )
    if str(source) in EMBEDDED:
        return Path(str(resources.files(__package__))) / "embedded" / str(source)
    what = "is a file" if path.exists() else "does not exist"
    raise CheckpointError(
        f"{source} {what}; expected a pretrained directory, a run's directory, a repository of "
        f"the Hugging Face hub (owner/name, or owner/name@main where there is a folder owner), or "
        f"one of the models in the package: "
        f"{', '.join(EMBEDDED)}"
    )


def is_ours(config: Path) -> bool:
    """Whether a ``config.json`` is of this package, and not of another project or unreadable."""
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    ours = FORMAT.partition("/")[0]
    return isinstance(values, dict) and str(values.get("format")).startswith(ours)
