"""Results of one pass over labelled images, from which every metric derives. No jax."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import CheckpointError, DataError, reraise
from bottleneck_transformer_flax.evaluation.calibration import Reliability, reliability
from bottleneck_transformer_flax.files import atomic_file


class Mistake(NamedTuple):
    """An image that the model takes for another class.

    Attributes:
        position: index of the image in its source.
        true_class: its label.
        predicted_class: the likeliest class.
        probability: probability of the predicted class, in [0, 1].
    """

    position: int
    true_class: int
    predicted_class: int
    probability: float


def digest(source: ImageSource) -> str:
    """Hash of a source's image names and labels, independent of the folder that it is in."""
    record = (source.names, source.labels.tolist())
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Predictions:
    """Labels, likeliest classes and losses of a set of images; the arrays are read-only.

    Attributes:
        num_classes: number of classes of the model.
        positions: index of each image in its source; images that could not be read are left out.
        labels: true class of each image.
        top_classes: likeliest classes of each image, best first, five or as many as there are.
        top_probabilities: probabilities of these classes, in [0, 1].
        losses: cross-entropy of each image; it may be infinite or NaN.
        source_digest: ``digest`` of the source that the positions are about.
        logits: logits of each image, where the evaluator kept them; never in a file.

    Raises:
        DataError: when a label or a predicted class is outside [0, num_classes).
    """

    num_classes: int
    positions: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    top_classes: Int[np.ndarray, "n k"]
    top_probabilities: Float[np.ndarray, "n k"]
    losses: Float[np.ndarray, " n"]
    source_digest: str = ""
    logits: Float[np.ndarray, "n classes"] | None = None

    def __post_init__(self) -> None:
        """Check the classes, and make the arrays as immutable as the record."""
        for name, classes in (("label", self.labels), ("predicted class", self.top_classes)):
            outside = classes[(classes < 0) | (classes >= self.num_classes)]
            if outside.size:
                raise DataError(
                    f"{name} {outside[0]} is out of range; expected 0 to {self.num_classes - 1} "
                    f"for a model of {self.num_classes} classes; check that the model and the "
                    "data set have the same classes"
                )
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def top1(self) -> float:
        """Fraction of images whose likeliest class is right; DataError without images."""
        return int((self.top_classes[:, 0] == self.labels).sum()) / self._count_or_raise()

    @property
    def top5(self) -> float:
        """Fraction of images with the label among the five likeliest classes; else as ``top1``."""
        right = (self.top_classes[:, :5] == self.labels[:, None]).any(axis=1)
        return int(right.sum()) / self._count_or_raise()

    @property
    def loss(self) -> float:
        """Mean loss, the same in any order of the images; infinite or NaN when a loss is.

        Raises:
            DataError: when there are no images.
        """
        count = self._count_or_raise()
        # fsum refuses the sum of infinity and minus infinity.
        not_finite = self.losses[~np.isfinite(self.losses)].tolist()
        return sum(not_finite) if not_finite else math.fsum(self.losses.tolist()) / count

    @property
    def balanced_accuracy(self) -> float:
        """Mean accuracy of the classes that have images, as in scikit-learn; else as ``top1``."""
        self._count_or_raise()
        return float(np.nanmean(self.per_class_accuracy))

    @property
    def macro_f1(self) -> float:
        """Mean F1 score of the classes that have images or are predicted; else as ``top1``.

        A class's score is ``2 · right / (images + predictions)``. As in scikit-learn, it is 0 for a
        class that is predicted but has no images, and a class that is neither is left out.
        """
        self._count_or_raise()
        predicted = self.top_classes[:, 0]
        right = np.bincount(predicted[predicted == self.labels], minlength=self.num_classes)
        total = self.per_class_count + np.bincount(predicted, minlength=self.num_classes)
        return float(np.mean(2 * right[total > 0] / total[total > 0]))

    @property
    def reliability(self) -> Reliability:
        """Accuracy by confidence; else as ``top1``."""
        self._count_or_raise()
        return reliability(self.top_probabilities[:, 0], self.top_classes[:, 0] == self.labels)

    @property
    def ece(self) -> float:
        """Expected calibration error over 15 bins, in [0, 1]; else as ``top1``."""
        return self.reliability.ece

    def calibrated(self, temperature: float) -> "Predictions":
        """The same predictions with probabilities ``softmax(logits / temperature)``.

        The record must hold logits; the new one holds none.
        """
        assert self.logits is not None
        scaled = self.logits / np.float32(temperature)
        top = np.take_along_axis(scaled, self.top_classes, axis=1)
        # The likeliest class comes first, so no exponential overflows.
        total = np.exp(scaled - top[:, :1]).sum(axis=1, keepdims=True)
        probabilities = np.exp(top - top[:, :1]) / total
        return replace(self, top_probabilities=probabilities, logits=None)

    @property
    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """Number of images by true class (rows) and predicted class (columns)."""
        # int64: the index of a cell overflows narrower types.
        cells = self.labels.astype(np.int64) * self.num_classes + self.top_classes[:, 0]
        counts = np.bincount(cells, minlength=self.num_classes**2)
        return counts.reshape(self.num_classes, self.num_classes)

    @property
    def per_class_count(self) -> Int[np.ndarray, " classes"]:
        """Number of images of each true class."""
        return np.bincount(self.labels, minlength=self.num_classes)

    @property
    def per_class_accuracy(self) -> Float[np.ndarray, " classes"]:
        """Fraction of each class's images whose likeliest class is right; NaN without images."""
        right = self.labels[self.top_classes[:, 0] == self.labels]
        counts = self.per_class_count
        accuracy = np.full(self.num_classes, np.nan)
        correct = np.bincount(right, minlength=self.num_classes)
        return np.divide(correct, counts, out=accuracy, where=counts > 0)

    def mistakes(self, count: int) -> list[Mistake]:
        """Images taken for another class, the most confident first, the earlier first among equals.

        Args:
            count: most mistakes to give.
        """
        probabilities = self.top_probabilities[:, 0]
        wrong = np.flatnonzero(self.top_classes[:, 0] != self.labels)
        order = wrong[np.argsort(-probabilities[wrong], kind="stable")][:count]
        columns = (self.positions, self.labels, self.top_classes[:, 0], probabilities)
        rows = zip(*(column[order].tolist() for column in columns), strict=True)
        return [Mistake(*row) for row in rows]

    def to_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Write every metric as plain JSON values, accuracies as fractions in [0, 1].

        ``None`` stands for the accuracy of a class without images, and for a loss or calibration
        error that is infinite or NaN, for which JSON has no value. Both have 6 decimals.

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
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "ece": _rounded(self.ece),
            "loss": _rounded(self.loss),
            "count": self.count,
            "per_class": [
                {"class": name, "accuracy": accuracy if count else None, "count": count}
                for name, accuracy, count in zip(class_names, accuracies, counts, strict=True)
            ],
        }

    def save(self, path: Path) -> None:
        """Write everything to one .npz file, whole or not at all."""
        with atomic_file(path) as beside, beside.open("wb") as stream:
            np.savez_compressed(stream, **{name: getattr(self, name) for name in _SAVED})

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: when the file is missing or damaged.
        """
        # Depending on the damage, zipfile, zlib or NumPy notices.
        remedy = "remove it, and the predictions are computed again"
        with reraise(Exception, CheckpointError, f"{path} cannot be read", remedy=remedy):
            with path.open("rb") as stream, np.load(stream) as file:
                arrays = {name: file[name] for name in _SAVED}
            scalars = {name: arrays[name].item() for name in ("num_classes", "source_digest")}
            return cls(**arrays | scalars)

    def _count_or_raise(self) -> int:
        if self.count == 0:
            raise DataError(
                "metrics are undefined over no images: the split to evaluate has none, or none "
                "that can be read"
            )
        return self.count


_SAVED = [field.name for field in fields(Predictions) if field.name != "logits"]


def _rounded(value: float) -> float | None:
    """A number for JSON: further digits are float32 rounding, which depends on the batch size."""
    return round(value, 6) if math.isfinite(value) else None
