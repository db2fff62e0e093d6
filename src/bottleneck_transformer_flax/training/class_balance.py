"""Classes of unequal size: how much each counts in the loss."""

import numpy as np
from jaxtyping import Float, Int

IMBALANCED = 10
"""Ratio of the largest class to the smallest from which accuracy misleads."""


def class_weights(labels: Int[np.ndarray, " n"], num_classes: int) -> Float[np.ndarray, " classes"]:
    """Weight of each class in the loss, by which all classes count equally.

    w_c = n / (k · n_c) for n images in k classes, n_c of them in class c. The mean weight of the
    images is then 1, and the learning rate keeps its meaning.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / np.count_nonzero(counts) / np.maximum(counts, 1)).astype(np.float32)
