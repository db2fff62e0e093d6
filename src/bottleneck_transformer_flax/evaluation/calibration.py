"""How far a model's confidences are from its accuracy, and the temperature that corrects them.

Both follow Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599. No jax.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

NUM_BINS = 15
FEWEST_IMAGES = 50
"""With fewer images, the temperature would be decided by a handful of mistakes."""
LARGEST_TEMPERATURE = 100.0
"""A temperature is between this and its reciprocal."""
_BISECTIONS = 24


class Reliability(NamedTuple):
    """Images by their confidence, the probability of the likeliest class, in bins of equal width.

    Attributes:
        counts: number of images in each bin; the m-th of M bins is ((m − 1) / M, m / M].
        accuracies: fraction of each bin's images whose likeliest class is right; NaN without
            images.
        confidences: mean confidence of each bin's images; NaN without images.
    """

    counts: Int[np.ndarray, " bins"]
    accuracies: Float[np.ndarray, " bins"]
    confidences: Float[np.ndarray, " bins"]

    @property
    def ece(self) -> float:
        """Expected calibration error, ``Σ_m count_m / n · |accuracy_m − confidence_m|``."""
        gaps = np.abs(self.accuracies - self.confidences)
        filled = self.counts > 0
        return float((self.counts[filled] * gaps[filled]).sum() / self.counts.sum())


def reliability(
    confidences: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> Reliability:
    """Sort images into 15 bins by their confidence, as the paper's figures and tables do.

    Args:
        confidences: probability of each image's likeliest class, in [0, 1]; one that is NaN makes
            the error NaN.
        correct: whether that class is right.
    """
    # Exact in float64, so that a confidence on an edge belongs to the bin below it.
    confidences = confidences.astype(np.float64)
    bins = np.ceil(np.nan_to_num(confidences) * NUM_BINS).astype(np.int64) - 1
    bins = np.clip(bins, 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    right = np.bincount(bins, weights=correct, minlength=NUM_BINS)
    total = np.bincount(bins, weights=confidences, minlength=NUM_BINS)
    empty = np.full(NUM_BINS, np.nan)
    accuracies = np.divide(right, counts, out=empty.copy(), where=counts > 0)
    return Reliability(counts, accuracies, np.divide(total, counts, out=empty, where=counts > 0))


def fit_temperature(
    logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> float | None:
    """The temperature T that minimises the mean cross-entropy of ``softmax(logits / T)``.

    The cross-entropy is convex in ``β = 1 / T``, and its derivative is the mean of
    ``Σ_c p_c · logit_c − logit_label`` with ``p = softmax(β · logits)``; its root is bisected.
    Where every image is right, sharper probabilities fit ever better; then the n labels are
    smoothed by 1 / (n + 1), as if one more image could have any label.

    Returns:
        The temperature. None where there are fewer than ``FEWEST_IMAGES`` images, or where the
        minimum is not between ``1 / LARGEST_TEMPERATURE`` and ``LARGEST_TEMPERATURE``, as where
        the logits say nothing of the labels.
    """
    if len(labels) < FEWEST_IMAGES:
        return None
    below_top = logits - logits.max(axis=1, keepdims=True)
    of_labels = below_top[np.arange(len(labels)), labels]
    if not of_labels.any():
        of_labels = below_top.mean(axis=1) / (len(labels) + 1)

    def derivative(log_temperature: float) -> float:
        weights = np.exp(below_top / np.float32(math.exp(log_temperature)))
        expected = np.einsum("nc,nc->n", weights, below_top) / weights.sum(axis=1)
        return float(np.sum(expected - of_labels, dtype=np.float64))

    # By the logarithm, the relative precision is the same everywhere.
    low, high = -math.log(LARGEST_TEMPERATURE), math.log(LARGEST_TEMPERATURE)
    if not derivative(low) > 0 > derivative(high):
        return None
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if derivative(middle) > 0 else (low, middle)
    return math.exp((low + high) / 2)
