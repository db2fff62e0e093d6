"""What the trainer reports during a run, to a terminal, a log or a test."""

from typing import Any

from bottleneck_transformer_flax.training.metrics import EpochMetrics, Progress, StepInfo
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Setup


class Callback:
    """Hears of everything in a run, in order; a subclass overrides the methods that it needs.

    Attributes:
        shows_mfu: whether to measure the devices' peak before the first step, which the MFU in
            the metrics needs.
    """

    shows_mfu: bool = False

    def on_start(self, setup: Setup, run: RunDirectory, progress: Progress) -> None:
        """The run begins, or resumes after ``progress.step`` steps."""

    def on_step(self, step: StepInfo, epoch: EpochMetrics) -> None:
        """A step is done; the epoch's metrics include it."""

    def on_evaluation(self, split: str, done: int, total: int) -> None:
        """The first ``done`` images of a split, "validation" or "test", are scored."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """An epoch is over; the row is what ``metrics.jsonl`` holds of it."""

    def on_stop(self) -> None:
        """The run was asked to stop: it is about to be saved and left."""

    def on_end(self) -> None:
        """The run has ended, in whatever way."""
