"""``botnet share``: upload a model to the Hugging Face hub."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from bottleneck_transformer_flax.checkpoints.hub import upload_pretrained, upload_revision
from bottleneck_transformer_flax.checkpoints.pretrained_files import find_pretrained
from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.errors import CheckpointError

TIMM_REVISION = "timm"


@dataclass(frozen=True)
class ShareOptions:
    """Upload a model and its card to the Hugging Face hub, in one commit.

    A model that timm has too is also uploaded in timm's format, as the revision "timm" of the same
    repository.

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
    in_timm = _share_with_timm(checkpoint, parsed.repository, parsed.message)
    if parsed.json:
        summary = {"checkpoint": checkpoint, "repository": parsed.repository, "url": url}
        print(json.dumps(summary | {"timm": in_timm}))
    else:
        print(f"model   {checkpoint}")
        print(f"shared  {url}")
        if in_timm is not None:
            print(f"in timm: timm.create_model({in_timm!r}, pretrained=True)")
        command = options.command_line("predict", "--checkpoint", parsed.repository)
        print(f"next: {command} IMAGE")
    return 0


def _share_with_timm(checkpoint: str, repository: str, message: str | None) -> str | None:
    """Upload a model that timm has in its format too; the name by which timm loads it."""
    from bottleneck_transformer_flax.checkpoints.model_cards import licence_of_card
    from bottleneck_transformer_flax.checkpoints.pretrained import read_pretrained
    from bottleneck_transformer_flax.conversion.convert import is_of_timm, write_timm_repository

    directory = find_pretrained(checkpoint)
    pretrained = read_pretrained(directory)
    if not is_of_timm(pretrained):
        return None
    with tempfile.TemporaryDirectory() as folder:
        write_timm_repository(pretrained, Path(folder), licence_of_card(directory))
        upload_revision(Path(folder), repository, TIMM_REVISION, message=message or "For timm")
    return f"hf-hub:{repository}@{TIMM_REVISION}"
