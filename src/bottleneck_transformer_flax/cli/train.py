"""``botnet train``: from images to a model, its scores and pictures."""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from bottleneck_transformer_flax.cli import options, setup_text
from bottleneck_transformer_flax.cli.commands import as_typed
from bottleneck_transformer_flax.cli.console import LastingConsole, say
from bottleneck_transformer_flax.cli.result_text import result_lines
from bottleneck_transformer_flax.cli.startup import end_at_once, explain_device_error
from bottleneck_transformer_flax.cli.train_options import (
    TrainOptions,
    choose_for,
    parse,
    with_steps,
)
from bottleneck_transformer_flax.errors import (
    BoTNetError,
    CheckpointError,
    ConfigError,
    DataError,
    TrainingError,
    reraise,
)
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.recipes import recipe_for
from bottleneck_transformer_flax.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from bottleneck_transformer_flax.data.datasets import Splits
    from bottleneck_transformer_flax.distributed import StopRequest
    from bottleneck_transformer_flax.training.callbacks import Callback
    from bottleneck_transformer_flax.training.defaults import Choice
    from bottleneck_transformer_flax.training.setup import Setup


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    started = time.perf_counter()
    parsed = parse(arguments)
    # This imports jax, which takes a second; help and bad usage are answered without it.
    from bottleneck_transformer_flax.distributed import join_processes

    if not parsed.processes.given:
        return _train(arguments, parsed, started)
    join_processes(*parsed.processes.by_hand)
    return _train_as_one_of_several(arguments, parsed, started)


def _train_as_one_of_several(arguments: Sequence[str], parsed: TrainOptions, started: float) -> int:
    """Train; on failure, end this process in a way that ends the others too."""
    import jax

    try:
        code = _train(arguments, parsed, started)
    except (BoTNetError, OSError) as error:
        if isinstance(error, ConfigError):
            _leave_others(as_typed(str(error), arguments), 2)
        _leave_others(str(error))
    except (ValueError, RuntimeError) as error:
        # What JAX raises, in several lines, when another process has gone.
        again = "" if parsed.dry_run else " with --resume"
        _leave_others(
            explain_device_error(error)
            or f"another process of the run has ended or cannot be reached "
            f"({str(error).splitlines()[0]}); see its message, then start all of them again{again}"
        )
    jax.distributed.shutdown()
    return code


def _leave_others(message: str, code: int = 1) -> NoReturn:
    """End this process at once, which ends the others within a minute.

    An ordinary exit would wait for them, as they would for this one.
    """
    sys.stdout.flush()
    print(f"botnet: error: {message}", file=sys.stderr, flush=True)
    os._exit(code)


def _train(arguments: Sequence[str], parsed: TrainOptions, started: float) -> int:
    from bottleneck_transformer_flax.distributed import StopRequest, build_alike, is_primary_process
    from bottleneck_transformer_flax.training.trainer import train

    console = LastingConsole(stderr=parsed.json, emoji=False, quiet=not is_primary_process())
    callbacks = _callbacks(parsed, console)
    setup, choice = build_alike(
        lambda: _prepare(arguments, parsed), lambda prepared: prepared[0].identity()
    )
    if parsed.time is not None:
        say(console, f"time    {parsed.time}: timing a few steps")
        with _too_little_memory_explained(parsed, setup.config):
            setup, choice = _fitted(arguments, setup, started, parsed.time.total_seconds())
    if not parsed.resume:
        say(console, *_origin(parsed, setup, choice))
    if parsed.dry_run:
        with _too_little_memory_explained(parsed, setup.config):
            return _estimate(parsed, console, setup)
    directory = _directory(parsed, setup)
    resume = options.command_line("train", "--resume", "--run-directory", directory.path)
    with (
        directory.locked() if is_primary_process() else nullcontext(),
        _too_little_memory_explained(parsed, setup.config),
        _stop_on_signals(StopRequest(), resume) as stop,
    ):
        outcome = train(setup, directory, callbacks, stop)
    if report := outcome.bad_images.report():
        print(report, file=sys.stderr)
    if not outcome.finished:
        say(console, f"stopped and saved after step {outcome.step} of {setup.total_steps}")
        say(console, f"resume with: {resume}")
        return 1
    if parsed.json and is_primary_process():
        print(json.dumps((outcome.evaluation or {}) | {"run": str(directory.path)}))
    elif is_primary_process():
        seconds = time.perf_counter() - started
        say(console, *result_lines(setup, directory, outcome, seconds))
    return 0


def _callbacks(parsed: TrainOptions, console: Console) -> "list[Callback]":
    from bottleneck_transformer_flax.cli.progress import TrainingDisplay
    from bottleneck_transformer_flax.training.tensorboard import TensorBoard

    callbacks: list[Callback] = [TrainingDisplay(console)]
    if parsed.tensorboard and not console.quiet:
        callbacks.append(TensorBoard())
    return callbacks


def _fitted(
    arguments: Sequence[str], setup: "Setup", started: float, seconds: float
) -> "tuple[Setup, Choice | None]":
    """The setup of a run of as many steps as fit, from the time that a few of them take."""
    from bottleneck_transformer_flax.distributed import broadcast_from_primary
    from bottleneck_transformer_flax.training.estimate import estimate, fitting_steps, timed_for

    found = estimate(setup, seconds=timed_for(seconds))
    left = started + seconds - time.perf_counter()
    steps = broadcast_from_primary(fitting_steps(setup, found, left))
    typed = with_steps(arguments, steps, epochs=-(-steps // setup.steps_per_epoch))
    return _prepare(typed, parse(typed), setup.splits)


def _prepare(
    arguments: Sequence[str], parsed: TrainOptions, splits: "Splits | None" = None
) -> "tuple[Setup, Choice | None]":
    """List the images, choose the defaults that fit them if need be, and build the setup."""
    from bottleneck_transformer_flax.distributed import is_primary_process
    from bottleneck_transformer_flax.training.run_images import load_images
    from bottleneck_transformer_flax.training.setup import make_setup

    writes = not (parsed.resume or parsed.dry_run) and is_primary_process()
    if writes and parsed.run_directory is not None:
        # Before the images are listed, which may take a while.
        RunDirectory(parsed.run_directory).require_new()
    try:
        if parsed.resume:
            return _resumed_setup(parsed), None
        splits = load_images(parsed.config) if splits is None else splits
        choice = choose_for(arguments, splits)
        config = parsed.config if choice is None else parse(arguments, choice).config
        return make_setup(config, splits), choice
    except CheckpointError as error:
        if not parsed.resume:
            raise
        raise CheckpointError(
            f"{error}; the run began from {parsed.config.pretrained}: restore it, or say with "
            "--pretrained where it is now"
        ) from error


def _resumed_setup(parsed: TrainOptions) -> "Setup":
    """The setup of a run to resume, with its images wherever they are now."""
    from bottleneck_transformer_flax.training.run_images import RunImages
    from bottleneck_transformer_flax.training.setup import make_setup

    images = RunImages.of_run(RunDirectory(parsed.run_directory or Path()))
    if parsed.config.data != images.config.data:
        # The command line says where they are; the checkpoint decides whether they are the same.
        return make_setup(parsed.config)
    try:
        place, splits = images.find()
    except DataError as error:
        raise DataError(
            f"{error}; restore them, name their folder with --data, or begin a new run with "
            f"--like {images.owner}"
        ) from error
    return make_setup(parsed.config.replace(data=place), splits)


def _origin(parsed: TrainOptions, setup: "Setup", choice: "Choice | None") -> Iterator[str]:
    """The run or the recipe that the options come from, and why that recipe was chosen."""
    config = setup.config
    if parsed.like is not None:
        yield f"recipe  that of {parsed.like}"
    elif choice is None:
        name = parsed.recipe or recipe_for(config.data, config.pretrained)
        yield from setup_text.recipe_lines(name, config)
    else:
        yield from setup_text.recipe_lines(choice.recipe, config)
        yield from setup_text.choice_lines(choice, config.data)


def _estimate(parsed: TrainOptions, console: Console, setup: "Setup") -> int:
    from bottleneck_transformer_flax.training.estimate import estimate

    say(console, *setup_text.setup_lines(setup), *setup_text.imbalance_lines(setup))
    found = estimate(setup)
    if not parsed.json:
        say(console, *setup_text.estimate_lines(setup, found))
    elif not console.quiet:
        print(json.dumps(dataclasses.asdict(found) | {"seconds": found.seconds}))
    return 0


def _directory(parsed: TrainOptions, setup: "Setup") -> RunDirectory:
    """The run's folder, created for a new run by the primary process."""
    from bottleneck_transformer_flax.distributed import all_gather_text, is_primary_process
    from bottleneck_transformer_flax.training.run_images import record_images

    directory = RunDirectory(parsed.run_directory or Path())
    if is_primary_process():
        with reraise(
            OSError,
            CheckpointError,
            f"{parsed.run_directory or options.RUNS} cannot be created",
            remedy="name another folder with --run-directory",
        ):
            directory = RunDirectory(parsed.run_directory or _new_folder(setup.model_name))
            if not parsed.resume:
                images = record_images(directory, setup.config, setup.splits)
                directory.create(setup.config, images)
    return RunDirectory(Path(all_gather_text(str(directory.path))[0]))


def _new_folder(variant: str) -> Path:
    """A new folder below runs/, named after the time."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{variant}"
    path, copy = options.RUNS / name, 1
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            copy += 1
            path = options.RUNS / f"{name}-{copy}"
        else:
            return path


@contextmanager
def _too_little_memory_explained(parsed: TrainOptions, config: RunConfig) -> Iterator[None]:
    """Turn XLA's error about too little memory into one that names what helps."""
    from jax.errors import JaxRuntimeError

    try:
        yield
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        helps = setup_text.less_memory(config, parsed.run_directory if parsed.resume else None)
        raise TrainingError(
            f"a device has too little memory ({str(error).splitlines()[0]}); {helps}"
        ) from error


@contextmanager
def _stop_on_signals(stop: "StopRequest", resume: str) -> "Iterator[StopRequest]":
    """Request a stop at the first Ctrl-C or SIGTERM; end at once at the second.

    Args:
        stop: the request.
        resume: the command that resumes the run, for whoever does not wait until it is saved.
    """

    def handle(number: int, _: FrameType | None) -> None:
        if stop.requested:
            os.write(2, f"\nresume from the last checkpoint with: {resume}\n".encode())
            end_at_once()
        stop.requested = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
