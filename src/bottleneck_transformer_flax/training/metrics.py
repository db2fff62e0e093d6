"""What is measured in training: by step, by epoch, and over the run so far."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array, Float, Int
from bottleneck_transformer_flax.distributed import STEPS_IN_FLIGHT
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.evaluation.calibration import fit_temperature
from bottleneck_transformer_flax.evaluation.predictions import Predictions


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


class DispatchedStep(NamedTuple):
    """A step that was dispatched to the device, which may still be computing it."""

    step: int
    metrics: StepMetrics
    learning_rate: float
    started: float
    input_seconds: float


def finished_steps(
    in_flight: deque[DispatchedStep], *, leave: int = STEPS_IN_FLIGHT
) -> Iterator[StepInfo]:
    """Remove all steps but the newest ``leave``, oldest first, and wait for their metrics.

    The number left is fixed, so that several processes read the same step at the same time.
    """
    while len(in_flight) > leave:
        step, metrics, learning_rate, started, input_seconds = in_flight.popleft()
        numbers = {name: value.item() for name, value in metrics._asdict().items()}
        ended = in_flight[0].started if in_flight else time.perf_counter()
        yield StepInfo(
            step=step,
            **numbers,
            learning_rate=learning_rate,
            seconds=ended - started,
            input_seconds=input_seconds,
        )


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
        validation: predictions of the latest validation in this process; not saved.
    """

    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    epoch: EpochMetrics = field(default_factory=EpochMetrics)
    validation: Predictions | None = None

    @property
    def epoch_number(self) -> int:
        """Number of the epoch under way, from 1."""
        return len(self.rows) + 1

    @property
    def best_accuracy(self) -> float:
        """Highest validation accuracy so far; below 0 before the first validation."""
        return max((row.get("validation_accuracy", -1.0) for row in self.rows), default=-1.0)

    def to_json(self) -> dict[str, Any]:
        """The progress as plain JSON values."""
        return {"step": self.step, "rows": self.rows, "epoch": asdict(self.epoch)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """The progress that ``to_json`` wrote.

        Raises:
            CheckpointError: when the values are not its own.
        """
        try:
            return cls(values["step"], list(values["rows"]), EpochMetrics(**values["epoch"]))
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
