"""``botnet train``: from images to a model, its scores and pictures."""

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.interrupts import end_at_once, say_in_handler
from bottleneck_transformer_flax.cli.processes import ProcessOptions, join, leave_others
from bottleneck_transformer_flax.errors import BoTNetError, CheckpointError, ConfigError
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.recipes import default_config
from bottleneck_transformer_flax.training.run import RunDirectory, newest_run

if TYPE_CHECKING:
    from bottleneck_transformer_flax.training.plan import Plan
    from bottleneck_transformer_flax.training.reporter import Reporter

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


def run(arguments: Sequence[str]) -> int:
    """The command."""
    parsed = _parse(arguments)

    if parsed.processes.given:
        join(parsed.processes)
        return _one_of_several(parsed)
    return _train(parsed)


def _one_of_several(parsed: TrainOptions) -> int:
    """Train, and if that fails end in such a way that the others end too."""
    import jax

    try:
        code = _train(parsed)
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
    from bottleneck_transformer_flax.devices import first_process, from_first_process
    from bottleneck_transformer_flax.training.loop import train as train_to_end
    from bottleneck_transformer_flax.training.outcome import StopRequest

    console = Console(stderr=parsed.json, emoji=False, quiet=not first_process())
    start = time.perf_counter()
    plan = _plan(parsed)
    if parsed.dry_run:
        return say_estimate(console, plan, as_json=parsed.json)
    run_directory = RunDirectory(parsed.run_directory or Path())
    if first_process():
        run_directory = RunDirectory(parsed.run_directory or _new_directory(plan.model_name))
        if not parsed.resume:
            run_directory.create(parsed.config)
    run_directory = RunDirectory(Path(from_first_process(str(run_directory.path))))
    with (
        run_directory.locked() if first_process() else nullcontext(),
        _stop_on_signals(StopRequest()) as stop,
        _reporters(console, run_directory, tensorboard=parsed.tensorboard) as reporter,
    ):
        if parsed.resume and first_process():
            run_directory.write_config(parsed.config)
        outcome = train_to_end(plan, run_directory, reporter, stop)
    if report := outcome.bad_images.report():
        print(report, file=sys.stderr)
    if not outcome.finished or outcome.evaluation is None:
        _say(console, f"stopped and saved after step {outcome.step} of {plan.total_steps}")
        again = options.command_line("train", "--resume", "--run-directory", run_directory.path)
        _say(console, f"go on with: {again}")
        return 1
    if parsed.json and first_process():
        print(json.dumps(outcome.evaluation | {"run": str(run_directory.path)}))
    elif first_process():
        _print_results(console, run_directory, outcome.evaluation, time.perf_counter() - start)
    return 0


def _plan(parsed: TrainOptions) -> "Plan":
    from bottleneck_transformer_flax.training.plan import make_plan

    try:
        return make_plan(parsed.config)
    except CheckpointError as error:
        if not parsed.resume:
            raise
        raise CheckpointError(
            f"{error}; the run began from {parsed.config.pretrained}: bring it back, or say with "
            "--pretrained where it is now"
        ) from error


@contextmanager
def _reporters(console: Console, run: RunDirectory, *, tensorboard: bool) -> "Iterator[Reporter]":
    """A terminal's display, and events where they are asked for."""
    from bottleneck_transformer_flax.cli.progress import TrainingDisplay
    from bottleneck_transformer_flax.training.reporter import Reporters
    from bottleneck_transformer_flax.training.tensorboard import TensorBoardReporter

    with ExitStack() as stack:
        reporters: list[Reporter] = [stack.enter_context(TrainingDisplay(console))]
        if tensorboard and not console.quiet:
            reporters.append(stack.enter_context(TensorBoardReporter(run)))
        yield Reporters(*reporters)


def _parse(arguments: Sequence[str]) -> TrainOptions:
    """The options, on top of the recipe for the data or of the run to resume, which is named."""
    if "--resume" not in arguments or "--help" in arguments or "-h" in arguments:
        like = _option(arguments, "--like")
        data = _option(arguments, "--data") or "embedded"
        pretrained = _option(arguments, "--pretrained")
        if like is None:
            config = default_config(data, pretrained, _option(arguments, "--recipe"))
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
        started = "checkpoints/[0-9]*"
        newest = newest_run(runs, having=started, lacking="pretrained") or newest_run(
            runs, having=started
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
    changed = sorted(_differences(saved.to_json(), parsed.config.to_json()))
    refused = [name for name in changed if name not in _CHANGEABLE]
    if refused:
        raise ConfigError(
            f"a resumed run cannot change {', '.join(refused)}; only "
            f"{', '.join(_CHANGEABLE)} may differ: leave the option out, or start a new run"
        )
    return dataclasses.replace(parsed, run_directory=newest.path)


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of one option, before the options are parsed."""
    for index, given in enumerate(arguments):
        flag, equals, value = given.partition("=")
        argument = flag.replace("_", "-") + equals + value
        if argument == name and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}=")
    return None


def _differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in before.items():
        if isinstance(value, dict):
            yield from _differences(value, after[name], f"{prefix}{name}.")
        elif value != after[name]:
            yield f"{prefix}{name}"


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
    console: Console, run: RunDirectory, evaluation: dict[str, Any], seconds: float
) -> None:
    _say(
        console,
        f"test accuracy {100 * evaluation['top1']:.2f} % on {evaluation['count']} images "
        f"(top-5 {100 * evaluation['top5']:.2f} %, loss {evaluation['loss']:.4f}), "
        f"in {seconds:.0f} s",
    )
    for what, path in (
        ("model", run.pretrained),
        ("checkpoint", run.checkpoints),
        ("curves", run.curves),
        ("confusion", run.confusion),
    ):
        _say(console, f"  {what:<11}{path}")
    chosen, _ = options.choose_checkpoint(None)
    checkpoint = () if chosen == str(run.path) else ("--checkpoint", run.path)
    _say(console, f"next: {options.command_line('predict', *checkpoint, run.example)}")


def _say(console: Console, text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)
