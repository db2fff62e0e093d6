"""What a person sees while a model trains or images are scored."""

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bottleneck_transformer_flax.training.plan import Plan
from bottleneck_transformer_flax.training.reporter import RunProgress
from bottleneck_transformer_flax.training.run import RunDirectory


class RateColumn(ProgressColumn):
    """Images per second, over the last seconds."""

    def render(self, task: Task) -> Text:
        """The rate of a task whose unit is an image."""
        return Text("" if task.speed is None else f"{task.speed:,.0f} images/s")


def counting_progress(console: Console) -> Progress:
    """A bar for work that is counted in images; nothing where the console is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _start_lines(plan: Plan) -> list[str]:
    """What is kept of a pretrained model; nothing for a random start."""
    if plan.pretrained is None:
        return []
    head = "its head, of the same classes" if plan.keeps_head else "a new head"
    parts = [f"{plan.config.pretrained} with {head}"]
    fine_tuning = plan.config.fine_tuning
    if fine_tuning.frozen_through is not None:
        parts.append(f"frozen through {fine_tuning.frozen_through}")
    if fine_tuning.backbone_rate != 1 and any(plan.part_rates.values()):
        parts.append(f"the rest before the head at {fine_tuning.backbone_rate:g} of the rate")
    if fine_tuning.frozen_batch_stats:
        parts.append("batch statistics frozen")
    return [f"start   {', '.join(parts)}"]


class TrainingDisplay:
    """A live bar on a terminal; everywhere a line for each epoch."""

    def __init__(self, console: Console) -> None:
        """Show on a console; use as a context."""
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._plan: Plan | None = None
        self._epoch_start: float | None = None
        self._epoch_images = 0

    def __enter__(self) -> "TrainingDisplay":
        """Start the live part."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the live part away; the lines stay."""
        self._progress.stop()

    def planned(self, plan: Plan, run: RunDirectory, start_step: int) -> None:
        """Say what will be trained, on what, and where it is written."""
        self._plan = plan
        height, width = plan.preprocessing.size
        config = plan.config
        lines = [
            f"data    {plan.splits.description}",
            f"model   {plan.model_name} at {height} × {width} pixels, "
            f"{plan.parameters:,} parameters",
            *_start_lines(plan),
            f"train   {config.epochs} epochs of {plan.steps_per_epoch} steps, "
            f"{plan.batch_size} images a step",
            f"run     {run.path}",
        ]
        if plan.batch_size < config.batch_size:
            lines.append(
                f"note    batch_size {config.batch_size} is more than there are training images; "
                f"{plan.batch_size} is used"
            )
        if start_step:
            lines.append(f"resume  after step {start_step} of {plan.total_steps}")
        for line in lines:
            self._console.print(escape(line), highlight=False, soft_wrap=True)
        self._task = self._progress.add_task(
            "compiling", total=plan.total_steps, completed=start_step, metrics=""
        )

    def stepped(self, progress: RunProgress) -> None:
        """Move the bar and show the epoch's metrics so far."""
        now = time.perf_counter()
        if self._epoch_start is None:
            # The first step of a process holds the compilation, which is no measure of speed.
            self._epoch_start, self._epoch_images = now, 0
        else:
            self._epoch_images += progress.images
        metrics = f"loss {progress.loss:.3f}  accuracy {100 * progress.accuracy:.1f} %"
        if self._epoch_images:
            rate = self._epoch_images / (now - self._epoch_start)
            metrics += f"  {rate:,.0f} images/s"
        self._show(
            f"epoch {progress.epoch}/{self._require_plan().config.epochs}",
            metrics,
            completed=progress.step,
        )

    def evaluating(self, done: int, total: int) -> None:
        """Show how far the evaluation is."""
        self._show("evaluating", f"{done}/{total} test images")

    def finished_epoch(self, row: dict[str, Any]) -> None:
        """Leave a line that stays."""
        self._epoch_start = None
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
        self._console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def _require_plan(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("planned() comes before everything else")
        return self._plan

    def _show(self, description: str, metrics: str, completed: int | None = None) -> None:
        if self._task is not None:
            self._progress.update(
                self._task, description=description, metrics=metrics, completed=completed
            )
