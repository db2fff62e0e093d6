"""What ``botnet train`` is told, on top of a recipe, another run or the run that goes on."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.processes import ProcessOptions
from bottleneck_transformer_flax.cli.record_paths import differences
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.recipes import default_config
from bottleneck_transformer_flax.training.run_directory import RUN_FILE, RunDirectory, newest_run

Recipe = Literal[
    "paper-standard",
    "paper-longer",
    "paper-scaled",
    "image-folder",
    "fine-tuning",
    "small-images",
    "embedded-quick",
]

# Anything else would make a resumed run another run.
_CHANGEABLE = (
    "data",
    "pretrained",
    "evaluate_every_epochs",
    "save_every_epochs",
    "input.num_workers",
    "input.skip_bad_images",
    "optimization.shard_parameters",
)


@dataclass(frozen=True)
class TrainOptions:
    """Train a model on images.

    With no argument it trains a small BoTNet on a data set that is included, in a few minutes.
    Everything is written to a new folder below runs/. Ctrl-C saves, and says how to go on.

    The defaults below are those found good for the data: `botnet train --data DIR --help` gives
    those for a folder of images.
    """

    config: RunConfig
    recipe: Recipe | None = None
    """Start from the options of this recipe instead of those found good for the data."""
    dry_run: bool = False
    """Say what the run would take, from a few of its steps, and write nothing."""
    resume: bool = False
    """Go on with the newest unfinished run, or with the one in --run-directory."""
    like: Path | None = None
    """Start from the options of this run instead of those found good for the data."""
    run_directory: Path | None = None
    """Where to write; by default a new folder below runs/, named after the time."""
    tensorboard: bool = False
    """Write events for TensorBoard into the run's folder; needs the extra "log"."""
    json: bool = False
    """Print the evaluation, or what a dry run found, as one JSON line and nothing else."""
    processes: ProcessOptions = field(default_factory=ProcessOptions)


def parse(arguments: Sequence[str]) -> TrainOptions:
    """The options, on top of the recipe for the data or of the run to resume, which is named."""
    if "--resume" not in arguments or "--help" in arguments or "-h" in arguments:
        like = _option(arguments, "--like")
        data = _option(arguments, "--data") or "embedded"
        pretrained, recipe = _option(arguments, "--pretrained"), _option(arguments, "--recipe")
        if like is None:
            config = default_config(data, pretrained, recipe)
        elif recipe is not None:
            raise ConfigError("--like starts from a run's own options; leave out --recipe")
        else:
            config = RunDirectory(Path(like)).read_config()
            if pretrained is not None:
                config = config.replace(variant=None, pretrained=pretrained)
        default = TrainOptions(config)
        return options.parse(TrainOptions, "train", arguments, default=default)
    for name in ("--like", "--recipe"):
        if _option(arguments, name) is not None:
            raise ConfigError(f"--resume goes on with a run's own options; leave out {name}")
    directory_name = _option(arguments, "--run-directory")
    if directory_name is None:
        runs = options.RUNS
        newest = newest_run(runs, having=RUN_FILE, lacking="pretrained") or newest_run(
            runs, having=RUN_FILE
        )
        if newest is None:
            raise CheckpointError(
                f"there is no run to resume in {options.RUNS}/; name one with --run-directory, or "
                "start one without --resume"
            )
    else:
        newest = RunDirectory(Path(directory_name))
    saved = newest.read_config()
    parsed = options.parse(TrainOptions, "train", arguments, default=TrainOptions(saved))
    changed = differences(saved.to_json(), parsed.config.to_json())
    refused = sorted(name for name, _ in changed if name not in _CHANGEABLE)
    if refused:
        raise ConfigError(
            f"a resumed run cannot change {', '.join(refused)}; only "
            f"{', '.join(_CHANGEABLE)} may differ: leave the option out, or start a new run"
        )
    return dataclasses.replace(parsed, run_directory=newest.path)


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of one option, the last if it is given twice, before the options are parsed."""
    found = None
    for given, following in zip(arguments, [*arguments, None][1:], strict=True):
        flag, equals, value = given.partition("=")
        if flag.replace("_", "-") == name:
            found = value if equals else following
    return found
