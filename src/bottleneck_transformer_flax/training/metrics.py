"""What is known of a run's epochs: kept beside the training state, so that none is lost."""

from dataclasses import dataclass, field
from typing import Any

from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.training.in_flight import StepResult


@dataclass
class EpochSums:
    """Sums over the steps of the epoch under way."""

    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0
    steps: int = 0
    gradient_norm_sum: float = 0.0
    update_norm_sum: float = 0.0
    operations: float = 0.0
    seconds: float = 0.0
    input_seconds: float = 0.0

    def add(self, result: StepResult, operations: float) -> None:
        """One more step, and the floating point operations of it."""
        self.loss_sum += result.loss_sum
        self.correct += result.correct
        self.count += result.images
        self.steps += 1
        self.gradient_norm_sum += result.gradient_norm
        self.update_norm_sum += result.update_norm
        self.operations += operations
        self.seconds += result.seconds
        self.input_seconds += result.input_seconds

    @property
    def loss(self) -> float:
        """Mean over the images so far."""
        return self.loss_sum / max(self.count, 1)

    @property
    def accuracy(self) -> float:
        """Fraction of the images so far."""
        return self.correct / max(self.count, 1)

    @property
    def gradient_norm(self) -> float:
        """Mean over the steps so far."""
        return self.gradient_norm_sum / max(self.steps, 1)

    @property
    def update_norm(self) -> float:
        """Mean over the steps so far."""
        return self.update_norm_sum / max(self.steps, 1)

    @property
    def images_per_second(self) -> float:
        """Over the epoch so far, waiting for images included."""
        return self.count / max(self.seconds, 1e-9)

    @property
    def input_wait(self) -> float:
        """Fraction of the time so far in which the next images were waited for."""
        return self.input_seconds / max(self.seconds, 1e-9)

    def to_row(self, peak_operations: float) -> dict[str, Any]:
        """What ``metrics.jsonl`` says of the epoch's steps."""
        return {
            "train_loss": self.loss,
            "train_accuracy": self.accuracy,
            "gradient_norm": self.gradient_norm,
            "update_norm": self.update_norm,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 1),
            "input_wait": round(self.input_wait, 4),
            "fraction_of_peak": round(self.fraction_of(peak_operations), 4),
        }

    def fraction_of(self, peak_operations: float) -> float:
        """Operations of the model in a second so far, as a fraction of what the machine can."""
        return self.operations / max(self.seconds, 1e-9) / peak_operations


@dataclass
class History:
    """What is known of the epochs: a row for each that is over, sums for the one under way."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    current: EpochSums = field(default_factory=EpochSums)

    @property
    def best_accuracy(self) -> float:
        """The highest test accuracy so far; below 0 where nothing was tested."""
        return max((row.get("test_accuracy", -1.0) for row in self.rows), default=-1.0)

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
