"""What a run says while it goes: to a terminal, a log, or a test."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from bottleneck_transformer_flax.training.plan import Plan
from bottleneck_transformer_flax.training.run import RunDirectory


class RunProgress(NamedTuple):
    """Where a run is, after a step; means are over the epoch so far."""

    epoch: int
    step: int
    loss: float
    accuracy: float
    images: int


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
