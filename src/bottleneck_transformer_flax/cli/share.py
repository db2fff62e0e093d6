"""``botnet share``: upload a model to the Hugging Face hub."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from bottleneck_transformer_flax.checkpoints.hub import upload_pretrained
from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.errors import CheckpointError


@dataclass(frozen=True)
class ShareOptions:
    """Upload a model and its card to the Hugging Face hub, in one commit.

    Log in first with `hf auth login`. The repository's name can then be used wherever a checkpoint
    is asked for, as in `botnet predict --checkpoint OWNER/NAME`.
    """

    repository: tyro.conf.Positional[str]
    """OWNER/NAME on the hub; created if it does not exist."""
    checkpoint: str | None = None
    """A pretrained directory or a run; by default the newest finished run."""
    private: bool = False
    """Make the repository private."""
    message: str | None = None
    """Commit message."""
    json: bool = False
    """Print the address as one line of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(ShareOptions, "share", arguments)
    checkpoint, run = options.choose_checkpoint(parsed.checkpoint)
    if parsed.checkpoint is None and run is None:
        raise CheckpointError(
            f"there is no finished run in {options.RUNS}/; name what to share with --checkpoint"
        )
    url = upload_pretrained(
        Path(checkpoint), parsed.repository, private=parsed.private, message=parsed.message
    )
    if parsed.json:
        print(json.dumps({"checkpoint": checkpoint, "repository": parsed.repository, "url": url}))
    else:
        print(f"model   {checkpoint}")
        print(f"shared  {url}")
        command = options.command_line("predict", "--checkpoint", parsed.repository)
        print(f"next: {command} IMAGE")
    return 0
