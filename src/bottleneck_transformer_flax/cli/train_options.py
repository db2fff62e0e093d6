"""The options of ``botnet train``, on top of a recipe, another run, or the run to resume."""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.errors import BoTNetError, CheckpointError, ConfigError
from bottleneck_transformer_flax.own_output import RUN_FILE
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.recipes import RECIPES_BY_DATA, default_config
from bottleneck_transformer_flax.training.run_directory import RunDirectory, newest_run

if TYPE_CHECKING:
    from bottleneck_transformer_flax.data.datasets import Splits
    from bottleneck_transformer_flax.training.defaults import Choice

Recipe = Literal[
    "paper-standard",
    "paper-longer",
    "paper-scaled",
    "image-folder",
    "fine-tuning",
    "small-images",
    "embedded-quick",
]

# Changing anything else would make the resumed run another run.
_CHANGEABLE = (
    "data",
    "pretrained",
    "epochs",
    "max_steps",
    "patience",
    "evaluate_every_epochs",
    "save_every_epochs",
    "input.num_workers",
    "input.skip_bad_images",
    "input.max_pixels",
    "optimization.shard_parameters",
)


@dataclass(frozen=True)
class ProcessOptions:
    """Training in several processes, one or more per machine; each runs the same command."""

    distributed: bool = False
    """Join the processes that SLURM, Open MPI, Kubernetes or a TPU pod has started."""
    coordinator: str | None = None
    """Without --distributed: HOST:PORT on which process 0 listens, the same for all processes."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Index of this process, from 0."""

    @property
    def given(self) -> bool:
        """Whether this process is one of several."""
        return self.distributed or self.by_hand != (None, None, None)

    @property
    def by_hand(self) -> tuple[str | None, int | None, int | None]:
        """Coordinator, number of processes, and index of this one."""
        return self.coordinator, self.num_processes, self.process_id

    def __post_init__(self) -> None:
        """Check that all three or none are given, and each value."""
        coordinator, count, index = self.by_hand
        if coordinator is None and count is None and index is None:
            return
        if coordinator is None or count is None or index is None:
            raise ConfigError(
                f"coordinator is {coordinator}, num_processes {count} and process_id {index}; "
                "expected all three of them, or none"
            )
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ConfigError(
                f"coordinator is {coordinator!r}; expected HOST:PORT, such as node0:1234"
            )
        if count < 1:
            raise ConfigError(f"num_processes is {count}; expected at least 1")
        if not 0 <= index < count:
            raise ConfigError(
                f"process_id is {index}; expected 0 to num_processes - 1 = {count - 1}"
            )


@dataclass(frozen=True)
class TrainOptions:
    """Train a model on images.

    Without options it trains a small BoTNet on an included data set, in a few minutes. Everything
    is written to a new folder below runs/. Ctrl-C saves the run and says how to resume it.

    The defaults below depend on the data: `botnet train --data DIR --help` shows those for a folder
    of images.
    """

    config: RunConfig
    recipe: Recipe | None = None
    """Take the defaults from this recipe instead of the one that suits the data."""
    time: timedelta | None = None
    """Instead of --epochs: as many steps as fit into this time, such as 15m or 1h30m, in which the
    whole command ends."""
    dry_run: bool = False
    """Estimate the run's time and memory from a few of its steps, and write nothing."""
    resume: bool = False
    """Resume the newest unfinished run, or the one in --run-directory; --epochs extends it."""
    like: Path | None = None
    """Take the defaults from the options of this run."""
    run_directory: Path | None = None
    """Folder to write to; by default a new one below runs/, named after the date and time."""
    tensorboard: bool = False
    """Write TensorBoard events to the run's folder; needs the extra "log"."""
    json: bool = False
    """Print only the evaluation, or the estimate of a dry run, as one line of JSON."""
    processes: ProcessOptions = field(default_factory=ProcessOptions)


@dataclass(frozen=True)
class _Basis:
    """The options that decide the defaults of all others."""

    data: str = RunConfig.data
    variant: str | None = None
    epochs: int | None = None
    max_steps: int | None = None
    time: str | None = None
    batch_size: int | None = None
    pretrained: str | None = None
    recipe: Recipe | None = None
    like: Path | None = None
    resume: bool = False
    run_directory: Path | None = None

    @property
    def is_left_to_the_images(self) -> bool:
        """Whether no recipe, run or name of a data set decides the defaults."""
        decided = self.like or self.recipe or self.resume
        return not decided and self.data not in RECIPES_BY_DATA


def parse(arguments: Sequence[str], choice: "Choice | None" = None) -> TrainOptions:
    """The options; their defaults come from the choice, from a recipe, or from the run named.

    Args:
        arguments: what the user typed.
        choice: the defaults that fit the images, once these are listed. Before, a folder has
            those of photographs; all options are checked even so.

    Raises:
        ConfigError: for options that cannot be read, or that a resumed run cannot change.
        CheckpointError: when the run to resume, or to start like, cannot be read.
    """
    basis = _parse_basis(arguments)
    help_wanted = bool({"--help", "-h"} & set(arguments))
    for name, value in (("--epochs", basis.epochs), ("--max-steps", basis.max_steps)):
        if basis.time is not None and value is not None:
            raise ConfigError(f"--time decides the number of steps; leave out {name}")
    if basis.resume and not help_wanted:
        return _parse_resumed(arguments, basis)
    if basis.like is not None and basis.recipe is not None:
        raise ConfigError("--like starts from a run's own options; leave out --recipe")
    if help_wanted and basis.is_left_to_the_images:
        from bottleneck_transformer_flax.data.datasets import load_splits

        # The options are not checked yet: of 0 epochs or images per step, the help still tells all.
        with contextlib.suppress(BoTNetError, ZeroDivisionError):
            choice = choose_for(arguments, load_splits(basis.data))
    if choice is not None:
        config = choice.config.replace(data=basis.data)
    elif basis.like is None:
        config = default_config(basis.data, basis.pretrained, basis.recipe)
    else:
        # This lists no images, but imports what does.
        from bottleneck_transformer_flax.training.run_images import RunImages

        images = RunImages.of_run(RunDirectory(basis.like))
        config = images.config.replace(data=images.place)
        if basis.pretrained is not None:
            config = config.replace(variant=None, pretrained=basis.pretrained)
    return options.parse(TrainOptions, "train", arguments, default=TrainOptions(config))


def with_steps(arguments: Sequence[str], steps: int, epochs: int) -> list[str]:
    """What a user would have typed to get so many steps in so many epochs, instead of --time."""
    kept = list(arguments)
    for index, word in enumerate(arguments):
        if word.partition("=")[0] == "--time":
            del kept[index : index + (1 if "=" in word else 2)]
    return [*kept, "--epochs", str(epochs), "--max-steps", str(steps)]


def choose_for(arguments: Sequence[str], splits: "Splits") -> "Choice | None":
    """The defaults that fit the images; None where something else decides them."""
    from bottleneck_transformer_flax.training.defaults import (
        choose_defaults,
        choose_fine_tuning,
        summarize,
    )

    basis = _parse_basis(arguments)
    if not basis.is_left_to_the_images:
        return None
    given = {"epochs": basis.epochs, "batch_size": basis.batch_size}
    summary = summarize(splits.train)
    if basis.pretrained is not None:
        return choose_fine_tuning(summary, basis.pretrained, **given)
    return choose_defaults(summary, basis.variant, **given)


def _parse_basis(arguments: Sequence[str]) -> _Basis:
    try:
        basis, _ = tyro.cli(
            _Basis,
            args=list(arguments),
            return_unknown_args=True,
            add_help=False,
            console_outputs=False,
        )
    except SystemExit:
        # All options are parsed next, which reports whatever is wrong.
        return _Basis()
    return basis


def _parse_resumed(arguments: Sequence[str], basis: _Basis) -> TrainOptions:
    given = (("--like", basis.like), ("--recipe", basis.recipe), ("--time", basis.time))
    for name, value in given:
        if value is not None:
            raise ConfigError(f"--resume uses a run's own options; leave out {name}")
    if basis.run_directory is not None:
        run: RunDirectory | None = RunDirectory(basis.run_directory)
    else:
        run = newest_run(options.RUNS, having=RUN_FILE, unfinished=True)
        if run is None:
            run = newest_run(options.RUNS, having=RUN_FILE)
            if run is not None and basis.epochs is None:
                raise CheckpointError(
                    f"every run in {options.RUNS}/ is finished; --epochs trains the newest for "
                    "longer"
                )
    if run is None:
        raise CheckpointError(
            f"there is no run to resume in {options.RUNS}/; name one with --run-directory, or "
            "start one without --resume"
        )
    saved = run.read_config()
    if basis.epochs is not None:
        # Those of the whole run, whatever ended it before.
        saved = saved.replace(max_steps=None)
    parsed = options.parse(TrainOptions, "train", arguments, default=TrainOptions(saved))
    if refused := sorted(saved.differences(parsed.config).keys() - set(_CHANGEABLE)):
        named, changeable = (
            ", ".join(map(options.option_name, paths)) for paths in (refused, _CHANGEABLE)
        )
        raise ConfigError(
            f"a resumed run cannot change {named}; only {changeable} may differ: leave the option "
            "out, or start a new run"
        )
    return dataclasses.replace(parsed, run_directory=run.path)
