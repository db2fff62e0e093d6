"""Classification metrics as sums that merge: exact, in any order, whatever the batches. No jax."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bottleneck_transformer_flax.errors import DataError


@dataclass(frozen=True, eq=False)
class ClassificationSums:
    """What a set of images adds up to; every metric is derived from these sums.

    ``merge`` is associative and commutative and ``empty`` is its identity, so that batches,
    hosts and repeated calls may be combined in any order with the same result to the last bit.
    The confusion matrix takes 8 · num_classes² bytes.

    Attributes:
        confusion: number of images; rows are true classes, columns predicted ones. Read-only.
        correct_at_5: images whose label is among the five best predictions, or among all
            predictions where fewer were given.
        finite_loss_sum: exact sum of the finite losses.
        nonfinite_loss_sum: sum of the losses that are infinite or NaN; 0.0 when there are none.
    """

    # A sum of floats depends on its order, so the losses are not summed as floats: every finite
    # float is an integer over a power of two, and fractions add without rounding. Infinities and
    # NaN are no fractions; float addition is already associative over {0, inf, -inf, NaN}.
    confusion: Int[np.ndarray, "classes classes"]
    correct_at_5: int
    finite_loss_sum: Fraction
    nonfinite_loss_sum: float

    def __post_init__(self) -> None:
        """Make the matrix read-only, as the rest of the record is."""
        self.confusion.setflags(write=False)

    @classmethod
    def empty(cls, num_classes: int) -> "ClassificationSums":
        """The identity of ``merge``: the sums over no image.

        Raises:
            DataError: when ``num_classes`` is below 1.
        """
        if num_classes < 1:
            raise DataError(f"num_classes is {num_classes}; expected at least 1")
        return ClassificationSums(
            np.zeros((num_classes, num_classes), np.int64), 0, Fraction(0), 0.0
        )

    @classmethod
    def from_predictions(
        cls,
        top_classes: Int[np.ndarray, "b top"],
        losses: Float[np.ndarray, " b"],
        labels: Int[np.ndarray, " b"],
        valid: Bool[np.ndarray, " b"],
        num_classes: int,
    ) -> "ClassificationSums":
        """The sums over one batch.

        Args:
            top_classes: predicted classes of each image, best first; at least one column.
            losses: loss of each image.
            labels: true class of each image.
            valid: False for rows that only pad the batch; nothing in those is read.
            num_classes: number of classes of the model.

        Raises:
            DataError: when ``top_classes`` has no column, or a label or a predicted class of a
                valid row is outside [0, num_classes).
        """
        identity = cls.empty(num_classes)
        if top_classes.shape[1] < 1:
            raise DataError("top_classes has no column; expected each image's best classes first")
        # int64: the index into the flattened matrix below overflows narrower types.
        top_classes = top_classes[valid].astype(np.int64)
        labels = labels[valid].astype(np.int64)
        _check_range("label", labels, num_classes)
        _check_range("predicted class", top_classes, num_classes)
        cells = np.bincount(labels * num_classes + top_classes[:, 0], minlength=num_classes**2)
        losses = losses[valid]
        finite = np.isfinite(losses)
        return ClassificationSums(
            confusion=cells.astype(np.int64).reshape(identity.confusion.shape),
            correct_at_5=int((top_classes[:, :5] == labels[:, None]).any(axis=1).sum()),
            finite_loss_sum=sum(map(Fraction, losses[finite].tolist()), Fraction(0)),
            nonfinite_loss_sum=sum(losses[~finite].tolist(), 0.0),
        )

    def merge(self, other: "ClassificationSums") -> "ClassificationSums":
        """The sums over both sets of images.

        Raises:
            DataError: when the two are about different numbers of classes.
        """
        if self.num_classes != other.num_classes:
            raise DataError(
                f"cannot merge metrics over {self.num_classes} classes with metrics over "
                f"{other.num_classes}; expected the same number of classes"
            )
        return ClassificationSums(
            confusion=self.confusion + other.confusion,
            correct_at_5=self.correct_at_5 + other.correct_at_5,
            finite_loss_sum=self.finite_loss_sum + other.finite_loss_sum,
            nonfinite_loss_sum=self.nonfinite_loss_sum + other.nonfinite_loss_sum,
        )

    def __eq__(self, other: object) -> bool:
        """Whether all sums are the same, NaN being the same as NaN."""
        if not isinstance(other, ClassificationSums):
            return NotImplemented
        return (
            np.array_equal(self.confusion, other.confusion)
            and self.correct_at_5 == other.correct_at_5
            and self.finite_loss_sum == other.finite_loss_sum
            and np.array_equal(self.nonfinite_loss_sum, other.nonfinite_loss_sum, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def num_classes(self) -> int:
        """Number of classes of the model."""
        return len(self.confusion)

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def correct_at_1(self) -> int:
        """Images whose label is the best prediction."""
        return int(self.confusion.trace())

    @property
    def top1(self) -> float:
        """``correct_at_1 / count``, in [0, 1]; raises DataError when there are no images."""
        return self.correct_at_1 / self._count_or_raise()

    @property
    def top5(self) -> float:
        """``correct_at_5 / count``, in [0, 1]; raises DataError when there are no images."""
        return self.correct_at_5 / self._count_or_raise()

    @property
    def loss(self) -> float:
        """Mean loss, rounded once; infinite or NaN when a loss was.

        Raises:
            DataError: when there are no images.
        """
        return float(self.finite_loss_sum / self._count_or_raise()) + self.nonfinite_loss_sum

    @property
    def per_class_count(self) -> Int[np.ndarray, " classes"]:
        """Number of images of each true class."""
        counts: Int[np.ndarray, " classes"] = self.confusion.sum(axis=1)
        return counts

    @property
    def per_class_accuracy(self) -> Float[np.ndarray, " classes"]:
        """Fraction of each class's images whose best prediction is right; NaN without images."""
        counts = self.per_class_count
        accuracy = np.full(self.num_classes, np.nan)
        np.divide(self.confusion.diagonal(), counts, out=accuracy, where=counts > 0)
        return accuracy

    def to_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Every metric as plain JSON values, accuracies as fractions in [0, 1].

        ``None`` stands for the accuracy of a class without images, and for a loss that is
        infinite or NaN, for which JSON has no value. The loss has 6 decimals.

        Raises:
            DataError: when there are no images, or not one name for each class.
        """
        if len(class_names) != self.num_classes:
            raise DataError(
                f"there are {len(class_names)} class names; expected {self.num_classes}, "
                "one for each class of the model"
            )
        accuracies, counts = self.per_class_accuracy.tolist(), self.per_class_count.tolist()
        return {
            "top1": self.top1,
            "top5": self.top5,
            # Further digits would be those of float32 rounding, and differ between batch sizes.
            "loss": round(self.loss, 6) if math.isfinite(self.loss) else None,
            "count": self.count,
            "per_class": [
                {"class": name, "accuracy": accuracy if count else None, "count": count}
                for name, accuracy, count in zip(class_names, accuracies, counts, strict=True)
            ],
        }

    def _count_or_raise(self) -> int:
        if self.count == 0:
            raise DataError(
                "metrics are undefined over no images: the part to evaluate has none, or none that "
                "can be read"
            )
        return self.count


def _check_range(what: str, classes: Int[np.ndarray, "..."], num_classes: int) -> None:
    outside = classes[(classes < 0) | (classes >= num_classes)]
    if outside.size:
        raise DataError(
            f"{what} {outside[0]} is out of range; expected 0 to {num_classes - 1} for a model of "
            f"{num_classes} classes; check that the model and the data set have the same classes"
        )
