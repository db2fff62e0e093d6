"""What is measured in training: by step, by epoch, and over the run so far."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array, Float, Int
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.evaluation.calibration import fit_temperature
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.training.config import RunConfig


class StepMetrics(NamedTuple):
    """What a train step measures on the device, over the valid images of its batch.

    Attributes:
        loss_sum: sum of their losses.
        correct: number whose most probable class is their label.
        images: number of valid images.
        gradient_norm: global norm of the gradient, before clipping.
        update_norm: global norm of the change of the parameters.
    """

    loss_sum: Float[Array, ""]
    correct: Int[Array, ""]
    images: Int[Array, ""]
    gradient_norm: Float[Array, ""]
    update_norm: Float[Array, ""]


class StepInfo(NamedTuple):
    """A finished step: its ``StepMetrics`` as Python numbers, and what the host knows of it.

    Attributes:
        step: number of the step in the run, from 1.
        learning_rate: learning rate of the step.
        seconds: wall time until the next step began.
        input_seconds: part of that time spent waiting for images.
    """

    step: int
    loss_sum: float
    correct: int
    images: int
    gradient_norm: float
    update_norm: float
    learning_rate: float
    seconds: float
    input_seconds: float


@dataclass
class EpochMetrics:
    """Sums over the steps of an epoch so far, and the means that follow from them."""

    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    steps: int = 0
    gradient_norm_sum: float = 0.0
    update_norm_sum: float = 0.0
    seconds: float = 0.0
    input_seconds: float = 0.0
    ideal_step_seconds: float | None = None
    """Seconds that a step would take at the devices' peak; None where that was not measured."""

    def add(self, step: StepInfo) -> None:
        """Count one more step."""
        self.loss_sum += step.loss_sum
        self.correct += step.correct
        self.images += step.images
        self.steps += 1
        self.gradient_norm_sum += step.gradient_norm
        self.update_norm_sum += step.update_norm
        self.seconds += step.seconds
        self.input_seconds += step.input_seconds

    @property
    def loss(self) -> float:
        """Mean loss of the images."""
        return self.loss_sum / max(self.images, 1)

    @property
    def accuracy(self) -> float:
        """Fraction of the images that were classified correctly."""
        return self.correct / max(self.images, 1)

    @property
    def images_per_second(self) -> float:
        """Images per second of wall time."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def input_wait(self) -> float:
        """Fraction of the time spent waiting for images."""
        return self.input_seconds / max(self.seconds, 1e-9)

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: FLOPs per second as a fraction of the devices' peak."""
        if self.ideal_step_seconds is None:
            return None
        return self.ideal_step_seconds * self.steps / max(self.seconds, 1e-9)

    def to_row(self) -> dict[str, Any]:
        """The epoch's part of a row of ``metrics.jsonl``."""
        row = {
            "train_loss": self.loss,
            "train_accuracy": self.accuracy,
            "gradient_norm": self.gradient_norm_sum / max(self.steps, 1),
            "update_norm": self.update_norm_sum / max(self.steps, 1),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 1),
            "input_wait": round(self.input_wait, 4),
        }
        return row if self.mfu is None else row | {"mfu": round(self.mfu, 4)}


def validation_row(validation: Predictions) -> dict[str, Any]:
    """The validation's part of a row of ``metrics.jsonl``.

    Where the predictions hold logits it has the temperature that fits them, which may be None.
    """
    row: dict[str, Any] = {
        "validation_loss": validation.loss,
        "validation_accuracy": validation.top1,
        "validation_top5": validation.top5,
        "validation_balanced_accuracy": validation.balanced_accuracy,
        "validation_macro_f1": validation.macro_f1,
        "validation_count": validation.count,
    }
    if validation.logits is not None:
        row["temperature"] = fit_temperature(validation.logits, validation.labels)
    return row


def final_scores(
    predictions: Predictions, temperature: float | None, class_names: Sequence[str]
) -> tuple[Predictions, dict[str, Any]]:
    """The predictions with calibrated probabilities, and their part of ``evaluation.json``.

    Without a temperature, both are those of the predictions as they are.
    """
    scores = predictions.to_json(class_names)
    if temperature is None:
        return predictions, scores
    calibrated = predictions.calibrated(temperature)
    before = {"temperature": temperature, "uncalibrated_ece": scores["ece"]}
    return calibrated, before | calibrated.to_json(class_names)


@dataclass
class Progress:
    """How far a run has come: saved with every checkpoint, so that a resumed run loses nothing.

    Attributes:
        step: steps taken so far.
        rows: rows of ``metrics.jsonl`` of the epochs that are over.
        epoch: metrics of the epoch under way.
        planned: number of epochs planned, and the step from which it holds: one record for the
            start, and one for each resumption with another number.
        validation: predictions of the latest validation in this process; not saved.
    """

    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    epoch: EpochMetrics = field(default_factory=EpochMetrics)
    planned: list[dict[str, int]] = field(default_factory=list)
    validation: Predictions | None = None

    @property
    def epoch_number(self) -> int:
        """Number of the epoch under way, from 1."""
        return len(self.rows) + 1

    @property
    def is_between_epochs(self) -> bool:
        """Whether no step of the epoch under way has been taken."""
        return self.step == (self.rows[-1]["step"] if self.rows else 0)

    @property
    def is_extended(self) -> bool:
        """Whether the run has another number of epochs from here on."""
        return len(self.planned) > 1 and self.planned[-1]["from_step"] == self.step

    def is_best(self, accuracy: float, loss: float) -> bool:
        """Whether a validation's model replaces the best one, the last that was marked as such.

        The higher accuracy decides, then the lower loss; of equal ones the later model, which was
        trained for longer, is the better.
        """
        best = next((row for row in reversed(self.rows) if row.get("best")), None)
        return best is None or (accuracy, -loss) >= (
            best["validation_accuracy"],
            -best["validation_loss"],
        )

    def has_ended(self, config: RunConfig) -> bool:
        """Whether all epochs are over, or the last ``patience`` validations made no best model."""
        if not self.rows or not self.is_between_epochs:
            return False
        over = len(self.rows) >= config.epochs
        # The last model of a run is always validated, which gives its temperature.
        if config.patience is None or "best" not in self.rows[-1]:
            return over
        validated = [row["best"] for row in self.rows if "best" in row]
        return over or not any(validated[-config.patience :])

    def to_json(self) -> dict[str, Any]:
        """The progress as plain JSON values."""
        return {
            "step": self.step,
            "rows": self.rows,
            "epoch": asdict(self.epoch),
            "planned": self.planned,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """The progress that ``to_json`` wrote.

        Raises:
            CheckpointError: when the values are not its own.
        """
        try:
            epoch, planned = EpochMetrics(**values["epoch"]), list(values.get("planned", ()))
            return cls(values["step"], list(values["rows"]), epoch, planned)
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                f"the checkpoint's progress cannot be read ({error}): it is damaged, or of an "
                "earlier version, with which to finish the run; or begin a new one with --like"
            ) from error


@cache
def peak_flops_per_second(dtype: Any) -> float:
    """FLOPs per second of one device in its fastest large matrix product, measured once.

    The product of two (n, n) matrices takes 2·n³ FLOPs.
    """
    side = 1024 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.full((side, side), 1 / side, dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)
