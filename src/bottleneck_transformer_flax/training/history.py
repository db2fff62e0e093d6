"""What is known of a run's epochs: kept beside the training state, so that none is lost."""

from dataclasses import dataclass, field
from typing import Any

from bottleneck_transformer_flax.errors import CheckpointError


@dataclass
class EpochSums:
    """Sums over the steps of the epoch under way."""

    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Mean over the images so far."""
        return self.loss_sum / max(self.count, 1)

    @property
    def accuracy(self) -> float:
        """Fraction of the images so far."""
        return self.correct / max(self.count, 1)


@dataclass
class History:
    """What is known of the epochs: a row for each that is over, sums for the one under way."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    current: EpochSums = field(default_factory=EpochSums)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, to be stored beside the training state."""
        return {"rows": self.rows, "current": vars(self.current)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "History":
        """From what ``to_json`` gave.

        Raises:
            CheckpointError: when it gave something else.
        """
        try:
            return cls(list(values["rows"]), EpochSums(**values["current"]))
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                f"the checkpoint's record of epochs is damaged: {error}"
            ) from error
