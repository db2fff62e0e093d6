"""What is shown while a model trains."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from bottleneck_transformer_flax.cli.console import say
from bottleneck_transformer_flax.cli.setup_text import (
    extension_lines,
    imbalance_lines,
    setup_lines,
)
from bottleneck_transformer_flax.data.loader import FILES_WORTH_A_WORKER, choose_num_workers
from bottleneck_transformer_flax.data.sources.array_record import is_packed
from bottleneck_transformer_flax.data.workers import usable_cores
from bottleneck_transformer_flax.training import metrics
from bottleneck_transformer_flax.training.callbacks import Callback
from bottleneck_transformer_flax.training.metrics import EpochMetrics, StepInfo
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Setup

LARGEST_INPUT_WAIT = 0.2
"""Fraction of the time spent waiting for images above which the wait is mentioned."""

Figure = tuple[str, str]
"""A name and a value beneath the bar."""


class TrainingDisplay(Callback):
    """On a terminal a live bar with figures beneath it; everywhere one line per epoch."""

    def __init__(self, console: Console) -> None:
        """Show on a console, from the start of the run to its end."""
        self.shows_mfu = console.is_terminal and not console.quiet
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("compiling", total=None)
        self._setup: Setup  # when the run starts
        self._figures: list[list[Figure]] = []
        self._compiled = False
        self._speed = EpochMetrics()
        self._best: dict[str, Any] | None = None
        self._hint_given = False
        # Last, because it draws what is set above.
        self._live = Live(get_renderable=self._picture, console=console, transient=True)

    def on_start(self, setup: Setup, run: RunDirectory, progress: metrics.Progress) -> None:
        """Say what will be trained, on what, and where it is written."""
        self._setup = setup
        say(self._console, *setup_lines(setup), f"run     {run.path}")
        if progress.step:
            say(self._console, f"resume  after step {progress.step} of {setup.total_steps}")
            say(self._console, *extension_lines(setup, progress, run))
        else:
            say(self._console, *imbalance_lines(setup))
        for row in progress.rows:
            self._keep_best(row)
        self._bar.update(self._task, total=setup.total_steps, completed=progress.step)
        if self.shows_mfu:
            self._live.start()

    def on_step(self, step: StepInfo, epoch: EpochMetrics) -> None:
        """Move the bar and show the epoch's metrics so far."""
        if epoch.steps == 1:
            self._speed = EpochMetrics()
        # The first step of a process includes the compilation, which is no measure of speed.
        if self._compiled:
            self._speed.add(step)
        self._compiled = True
        self._figures = _figures(step, epoch, self._speed, self._best)
        number = 1 + (step.step - 1) // self._setup.steps_per_epoch
        description = f"epoch {number}/{self._setup.config.epochs}"
        self._bar.update(self._task, description=description, completed=step.step)

    def on_evaluation(self, split: str, done: int, total: int) -> None:
        """Show how far the evaluation is."""
        self._bar.update(self._task, description=f"evaluating {done}/{total} {split} images")

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch's line."""
        self._keep_best(row)
        epochs = self._setup.config.epochs
        parts = [
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}",
            f"loss {row['train_loss']:.3f}",
            f"accuracy {100 * row['train_accuracy']:.1f} %",
        ]
        if "validation_accuracy" in row:
            parts += [
                f"validation loss {row['validation_loss']:.3f}",
                f"validation accuracy {100 * row['validation_accuracy']:.1f} %",
            ]
        parts.append(f"{row['images_per_second']:,.0f} images/s")
        waits = row["input_wait"] > LARGEST_INPUT_WAIT
        if waits:
            parts.append(f"waited {100 * row['input_wait']:.0f} % of the time for images")
        say(self._console, "  ".join(parts))
        if waits and not self._hint_given:
            self._hint_given = True
            say(self._console, *_input_hint(self._setup))

    def on_stop(self) -> None:
        """Say that the run is being saved."""
        say(self._console, "stopping after this step; press Ctrl-C again to leave without saving")

    def on_end(self) -> None:
        """Remove the bar and the figures, and leave the lines."""
        self._live.stop()

    def _keep_best(self, row: dict[str, Any]) -> None:
        if row.get("best"):
            self._best = row

    def _picture(self) -> Group:
        """The bar with the figures beneath it, in one column where three don't fit."""
        # A thread of rich's draws this, while on_step() may replace the figures.
        columns = self._figures
        table = _side_by_side(columns)
        unlimited = self._console.options.update(max_width=1000)
        if self._console.measure(table, options=unlimited).maximum > self._console.width:
            table = _side_by_side([[figure for column in columns for figure in column]])
        return Group(self._bar, table)


def _figures(
    step: StepInfo, epoch: EpochMetrics, speed: EpochMetrics, best: dict[str, Any] | None
) -> list[list[Figure]]:
    """Names and values in three columns: results, optimization, and speed."""
    results = [
        ("loss", f"{epoch.loss:.3f}"),
        ("accuracy", f"{100 * epoch.accuracy:.1f} %"),
    ]
    if best is not None:
        accuracy = f"{100 * best['validation_accuracy']:.1f} %, epoch {best['epoch']}"
        results.append(("best validation", accuracy))
    optimization = [
        ("learning rate", f"{step.learning_rate:.3g}"),
        ("gradient norm", f"{step.gradient_norm:.3g}"),
        ("update norm", f"{step.update_norm:.3g}"),
    ]
    rates = []
    if speed.steps:
        rates.append(("images/s", f"{speed.images_per_second:,.0f}"))
    if epoch.mfu is not None:
        rates.append(("MFU", f"{100 * epoch.mfu:.1f} %"))
    if speed.steps:
        rates.append(("input wait", f"{100 * speed.input_wait:.0f} %"))
    return [results, optimization, rates]


def _side_by_side(columns: list[list[Figure]]) -> Table:
    """A grid with the columns of names and values beside each other."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in columns:
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    for row in itertools.zip_longest(*columns, fillvalue=("", "")):
        table.add_row(*(text for figure in row for text in figure))
    return table


def _input_hint(setup: Setup) -> Iterator[str]:
    """What helps when the model waits for images; nothing where they are soon read anyway."""
    source, cores = setup.splits.train, usable_cores()
    if len(source) < FILES_WORTH_A_WORKER:
        return
    num_workers = setup.config.input.num_workers
    remedies = []
    if (choose_num_workers(source) if num_workers is None else num_workers) < cores:
        remedies.append(f"try --num-workers {cores}")
    if source.native_size is None and not is_packed(Path(setup.config.data)):
        remedies.append("pack the images with `botnet data pack`")
    if remedies:
        yield f"hint    images arrive too slowly: {', or '.join(remedies)}"
