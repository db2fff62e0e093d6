"""What a person sees while a model trains or images are scored."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from bottleneck_transformer_flax.cli import interrupts
from bottleneck_transformer_flax.cli.console import say
from bottleneck_transformer_flax.cli.plan_text import plan_lines
from bottleneck_transformer_flax.data.sources.array_record import is_packed
from bottleneck_transformer_flax.training.callbacks import RunProgress, read_rows
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Plan

LARGEST_INPUT_WAIT = 0.2
"""Of the time, without a remark."""


class TrainingDisplay:
    """On a terminal a live bar with the figures beneath it; everywhere a line for each epoch."""

    def __init__(self, console: Console) -> None:
        """Show on a console; use as a context."""
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task: TaskID | None = None
        self._plan: Plan | None = None
        self._latest: RunProgress | None = None
        self._speed = _Speed()
        self._best: dict[str, Any] | None = None
        self._hint_given = False
        # Last, because it asks for its picture at once.
        self._live = Live(get_renderable=self._picture, console=console, transient=True)

    def __enter__(self) -> "TrainingDisplay":
        """Start the live part."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the live part away; the lines stay."""
        self._live.stop()
        interrupts.live_lines = 1

    def planned(self, plan: Plan, run: RunDirectory, start_step: int) -> None:
        """Say what will be trained, on what, and where it is written."""
        self._plan = plan
        lines = [*plan_lines(plan), f"run     {run.path}"]
        if start_step:
            lines.append(f"resume  after step {start_step} of {plan.total_steps}")
            # Epochs after the checkpoint, if there were some, are made again.
            for row in read_rows(run):
                if row["step"] <= start_step:
                    self._keep_best(row)
        say(self._console, *lines)
        self._task = self._progress.add_task(
            "compiling", total=plan.total_steps, completed=start_step
        )

    def stepped(self, progress: RunProgress) -> None:
        """Move the bar and show the epoch's metrics so far."""
        # The first step of a process holds the compilation, which is no measure of speed.
        if self._latest is not None:
            if progress.epoch != self._latest.epoch:
                self._speed = _Speed()
            self._speed.add(progress)
        self._latest = progress
        epochs = self._require_plan().config.epochs
        self._show(f"epoch {progress.epoch}/{epochs}", completed=progress.step)

    def evaluating(self, done: int, total: int) -> None:
        """Show how far the evaluation is."""
        self._show(f"evaluating {done}/{total} test images")

    def finished_epoch(self, row: dict[str, Any]) -> None:
        """Leave a line that stays."""
        self._keep_best(row)
        epochs = self._require_plan().config.epochs
        parts = [
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}",
            f"loss {row['train_loss']:.3f}",
            f"accuracy {100 * row['train_accuracy']:.1f} %",
        ]
        if "test_accuracy" in row:
            parts += [
                f"test loss {row['test_loss']:.3f}",
                f"test accuracy {100 * row['test_accuracy']:.1f} %",
            ]
        parts.append(f"{row['images_per_second']:,.0f} images/s")
        input_wait = row.get("input_wait") or 0.0
        waits = input_wait > LARGEST_INPUT_WAIT
        if waits:
            parts.append(f"waited {100 * input_wait:.0f} % of the time for images")
        say(self._console, "  ".join(parts))
        if waits and not self._hint_given:
            self._hint_given = True
            say(self._console, _input_hint(self._require_plan()))

    def _keep_best(self, row: dict[str, Any]) -> None:
        accuracy = row.get("test_accuracy")
        if accuracy is not None and (self._best is None or accuracy > self._best["test_accuracy"]):
            self._best = row

    def _require_plan(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("planned() comes before everything else")
        return self._plan

    def _show(self, description: str, completed: int | None = None) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=description, completed=completed)

    def _picture(self) -> Group:
        """The bar, and what is known of the epoch under way."""
        # Drawn by a thread of its own, while the run goes on.
        latest = self._latest
        if latest is None:
            return Group(self._progress)
        columns = _figures(latest, self._speed, self._best)
        table = _side_by_side(columns)
        as_wide_as_it_likes = self._console.options.update(max_width=1000)
        if self._console.measure(table, options=as_wide_as_it_likes).maximum > self._console.width:
            table = _side_by_side([[figure for column in columns for figure in column]])
        if self._console.is_terminal:
            interrupts.live_lines = min(1 + table.row_count, self._console.height)
        return Group(self._progress, table)


@dataclass
class _Speed:
    """Sums over the steps of the epoch under way."""

    images: int = 0
    seconds: float = 0.0
    input_seconds: float = 0.0

    def add(self, progress: RunProgress) -> None:
        """A step more."""
        self.images += progress.images
        self.seconds += progress.seconds
        self.input_seconds += progress.input_seconds


Figure = tuple[str, str]


def _figures(latest: RunProgress, speed: _Speed, best: dict[str, Any] | None) -> list[list[Figure]]:
    """Names and values in three columns: what is learnt, how, and how fast."""
    best_text = "not yet"
    if best is not None:
        best_text = f"{100 * best['test_accuracy']:.1f} %, epoch {best['epoch']}"
    learnt = [
        ("loss", f"{latest.loss:.3f}"),
        ("accuracy", f"{100 * latest.accuracy:.1f} %"),
        ("best test", best_text),
    ]
    how = [
        ("learning rate", f"{latest.learning_rate:.3g}"),
        ("gradient norm", f"{latest.gradient_norm:.3g}"),
        ("update norm", f"{latest.update_norm:.3g}"),
    ]
    how_fast = []
    if speed.seconds > 0:
        how_fast.append(("images/s", f"{speed.images / speed.seconds:,.0f}"))
    if latest.fraction_of_peak is not None:
        how_fast.append(("fraction of peak", f"{100 * latest.fraction_of_peak:.1f} %"))
    if speed.seconds > 0:
        waiting = 100 * speed.input_seconds / speed.seconds
        how_fast.append(("waiting for images", f"{waiting:.0f} %"))
    return [learnt, how, how_fast]


def _side_by_side(columns: list[list[Figure]]) -> Table:
    """A row of names and values for the first of every column, then for the second, and on."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in columns:
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    for row in itertools.zip_longest(*columns, fillvalue=("", "")):
        table.add_row(*(text for figure in row for text in figure))
    return table


def _input_hint(plan: Plan) -> str:
    """What to do where the model waits for its images."""
    more = "give more processes with --num-workers"
    packed = is_packed(Path(plan.config.data))
    pack = (
        "" if packed or plan.splits.train.native_size else ", or pack them with `botnet data pack`"
    )
    return f"hint    images come too slowly for the model: {more}{pack}"
