"""``botnet train``: from images to a model, its scores and pictures."""

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import say
from bottleneck_transformer_flax.cli.interrupts import end_at_once, say_in_handler
from bottleneck_transformer_flax.cli.plan_text import recipe_lines
from bottleneck_transformer_flax.cli.processes import join, leave_others, planned_by_all
from bottleneck_transformer_flax.cli.train_options import TrainOptions, parse
from bottleneck_transformer_flax.errors import (
    BoTNetError,
    CheckpointError,
    ConfigError,
    TrainingError,
)
from bottleneck_transformer_flax.training.recipes import recipe_for
from bottleneck_transformer_flax.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from bottleneck_transformer_flax.cli.progress import TrainingDisplay
    from bottleneck_transformer_flax.training.callbacks import Reporter
    from bottleneck_transformer_flax.training.setup import Plan
    from bottleneck_transformer_flax.training.tensorboard import TensorBoardReporter


def run(arguments: Sequence[str]) -> int:
    """The command."""
    parsed = parse(arguments)
    if parsed.processes.given:
        join(parsed.processes)
        return _one_of_several(parsed)
    return _train(parsed)


def _one_of_several(parsed: TrainOptions) -> int:
    """Train, and if that fails end in such a way that the others end too."""
    import jax

    try:
        code = _train(parsed)
    except ConfigError as error:
        leave_others(str(error), code=2)
    except (BoTNetError, OSError) as error:
        leave_others(str(error))
    except (ValueError, RuntimeError) as error:
        # What the runtime says when another process has gone, over several lines.
        leave_others(
            f"another process of the run has ended or cannot be reached "
            f"({str(error).splitlines()[0]}); see what it said, then start all again with --resume"
        )
    jax.distributed.shutdown()
    return code


def _train(parsed: TrainOptions) -> int:
    # jax, which takes a second to import, only now: help and bad usage are answered at once.
    from bottleneck_transformer_flax.cli.dry_run import say_estimate
    from bottleneck_transformer_flax.distributed import all_gather_text, is_primary_process
    from bottleneck_transformer_flax.training.outcome import StopRequest
    from bottleneck_transformer_flax.training.trainer import train as train_to_end

    console = Console(stderr=parsed.json, emoji=False, quiet=not is_primary_process())
    start = time.perf_counter()
    reporters = _make_reporters(console, tensorboard=parsed.tensorboard)
    several = parsed.processes.given
    plan = planned_by_all(lambda: _plan(parsed)) if several else _plan(parsed)
    if not parsed.resume:
        say(console, *_origin(parsed))
    if parsed.dry_run:
        with _memory_named():
            return say_estimate(console, plan, as_json=parsed.json)
    run_directory = RunDirectory(parsed.run_directory or Path())
    if is_primary_process():
        run_directory = RunDirectory(parsed.run_directory or _new_directory(plan.model_name))
        if not parsed.resume:
            run_directory.create(parsed.config)
    run_directory = RunDirectory(Path(all_gather_text(str(run_directory.path))[0]))
    with (
        run_directory.locked() if is_primary_process() else nullcontext(),
        _memory_named(),
        _stop_on_signals(StopRequest()) as stop,
        _all_of(reporters) as reporter,
    ):
        outcome = train_to_end(plan, run_directory, reporter, stop)
    if report := outcome.bad_images.report():
        print(report, file=sys.stderr)
    if not outcome.finished:
        say(console, f"stopped and saved after step {outcome.step} of {plan.total_steps}")
        again = options.command_line("train", "--resume", "--run-directory", run_directory.path)
        say(console, f"go on with: {again}")
        return 1
    if parsed.json and is_primary_process():
        print(json.dumps((outcome.evaluation or {}) | {"run": str(run_directory.path)}))
    elif is_primary_process():
        _print_results(console, run_directory, outcome.evaluation, time.perf_counter() - start)
    return 0


@contextmanager
def _memory_named() -> Iterator[None]:
    """Say what helps when a device has too little memory."""
    from jax.errors import JaxRuntimeError

    try:
        yield
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingError(
            f"a device has too little memory ({str(error).splitlines()[0]}); give a smaller "
            "--batch-size or --image-size, more --accumulation-steps, --remat, or --dtype bfloat16"
        ) from error


def _plan(parsed: TrainOptions) -> "Plan":
    from bottleneck_transformer_flax.distributed import is_primary_process
    from bottleneck_transformer_flax.training.setup import make_plan

    writes = not (parsed.resume or parsed.dry_run) and is_primary_process()
    if writes and parsed.run_directory is not None:
        RunDirectory(parsed.run_directory).require_new()
    try:
        return make_plan(parsed.config)
    except CheckpointError as error:
        if not parsed.resume:
            raise
        raise CheckpointError(
            f"{error}; the run began from {parsed.config.pretrained}: bring it back, or say with "
            "--pretrained where it is now"
        ) from error


def _origin(parsed: TrainOptions) -> list[str]:
    """Where the options come from."""
    if parsed.like is not None:
        return [f"recipe  that of {parsed.like}"]
    name = parsed.recipe or recipe_for(parsed.config.data, parsed.config.pretrained)
    return recipe_lines(name, parsed.config)


def _make_reporters(
    console: Console, *, tensorboard: bool
) -> "list[TrainingDisplay | TensorBoardReporter]":
    """A terminal's display, and events where they are asked for and can be written."""
    from bottleneck_transformer_flax.cli.progress import TrainingDisplay
    from bottleneck_transformer_flax.training.tensorboard import TensorBoardReporter

    display = TrainingDisplay(console)
    return [display, TensorBoardReporter()] if tensorboard and not console.quiet else [display]


@contextmanager
def _all_of(reporters: "list[TrainingDisplay | TensorBoardReporter]") -> "Iterator[Reporter]":
    """Several reporters as one, each begun and ended."""
    from bottleneck_transformer_flax.training.callbacks import Reporters

    with ExitStack() as stack:
        for reporter in reporters:
            stack.enter_context(reporter)
        yield Reporters(*reporters)


def _new_directory(variant: str) -> Path:
    """A folder that no other run can take any more, named after the time."""
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
def _stop_on_signals(stop: Any) -> Iterator[Any]:
    """Ask the loop to save and leave at the first Ctrl-C or SIGTERM; the second ends at once."""

    def request(number: int, _: FrameType | None) -> None:
        if stop.requested:
            end_at_once()
        stop.requested = True
        say_in_handler("stopping after this step; once more to leave without saving")

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_results(
    console: Console, run: RunDirectory, evaluation: dict[str, Any] | None, seconds: float
) -> None:
    if evaluation is None:
        say(console, f"trained on all images, without any to score, in {seconds:.0f} s")
    else:
        say(
            console,
            f"accuracy {100 * evaluation['top1']:.2f} % on {evaluation['count']} images "
            f"(top-5 {100 * evaluation['top5']:.2f} %, loss {evaluation['loss']:.4f}), "
            f"in {seconds:.0f} s",
        )
    for what, path in (
        ("model", run.pretrained),
        ("checkpoint", run.checkpoints),
        ("curves", run.curves),
        ("confusion", run.confusion),
    ):
        say(console, f"  {what:<11}{path}")
    chosen, _ = options.choose_checkpoint(None)
    checkpoint = () if chosen == str(run.path) else ("--checkpoint", run.path)
    say(console, f"next: {options.command_line('predict', *checkpoint, run.example)}")
