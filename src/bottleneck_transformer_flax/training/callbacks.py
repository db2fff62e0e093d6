"""What a run says while it goes: to a terminal, a log, or a test."""

import json
from typing import Any, NamedTuple, Protocol, runtime_checkable

from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Plan


class RunProgress(NamedTuple):
    """Where a run is, after a step; loss and accuracy are means over the epoch so far.

    Attributes:
        epoch: from 1.
        step: from 1, over the whole run.
        loss: what training minimises.
        accuracy: a fraction in [0, 1].
        images: of this step.
        learning_rate: of this step.
        gradient_norm: of all parameters together, before clipping.
        update_norm: of the change of all parameters together.
        seconds: wall time of this step.
        input_seconds: of it, the time spent waiting for images.
        fraction_of_peak: of the operations that the device could have done in the epoch so far;
            None where its peak is not known.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    images: int
    learning_rate: float = 0.0
    gradient_norm: float = 0.0
    update_norm: float = 0.0
    seconds: float = 0.0
    input_seconds: float = 0.0
    fraction_of_peak: float | None = None


@runtime_checkable
class Reporter(Protocol):
    """Told of everything that happens in a run, in order."""

    def planned(self, plan: Plan, run: RunDirectory, start_step: int) -> None:
        """The run is about to start, or to go on."""

    def stepped(self, progress: RunProgress) -> None:
        """The metrics of a step are known."""

    def evaluating(self, done: int, total: int) -> None:
        """So many of the test images are scored."""

    def finished_epoch(self, row: dict[str, Any]) -> None:
        """An epoch is over; the row is what ``metrics.jsonl`` holds of it."""


class Reporters:
    """Several reporters as one: each is told everything, in the order they are given."""

    def __init__(self, *reporters: Reporter) -> None:
        """Tell these."""
        self._reporters = reporters

    def planned(self, plan: Plan, run: RunDirectory, start_step: int) -> None:
        """Pass on that the run is about to start."""
        for reporter in self._reporters:
            reporter.planned(plan, run, start_step)

    def stepped(self, progress: RunProgress) -> None:
        """Pass on the metrics of a step."""
        for reporter in self._reporters:
            reporter.stepped(progress)

    def evaluating(self, done: int, total: int) -> None:
        """Pass on how far the evaluation is."""
        for reporter in self._reporters:
            reporter.evaluating(done, total)

    def finished_epoch(self, row: dict[str, Any]) -> None:
        """Pass on what an epoch came to."""
        for reporter in self._reporters:
            reporter.finished_epoch(row)


def read_rows(run: RunDirectory) -> list[dict[str, Any]]:
    """What ``finished_epoch`` was told of the epochs of a run so far; nothing before the first.

    Raises:
        CheckpointError: when the record is damaged.
    """
    if not run.metrics.is_file():
        return []
    try:
        rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise CheckpointError(f"{run.metrics} cannot be read: {error}") from error
    if not all(isinstance(row, dict) and {"epoch", "step"} <= row.keys() for row in rows):
        raise CheckpointError(f"{run.metrics} cannot be read: expected an epoch in every line")
    return rows
