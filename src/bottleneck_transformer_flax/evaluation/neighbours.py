"""Classification by the nearest neighbours of an image's features.

The weighted vote of Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", arXiv 1805.01978, section 3.4, which later work on features scores them by.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.evaluation.evaluator import batches_of
from bottleneck_transformer_flax.evaluation.predictions import Predictions, digest
from bottleneck_transformer_flax.preprocessing import Preprocessing

TEMPERATURE = 0.07
"""A neighbour's vote has the weight exp(cosine similarity / temperature), as in the paper."""
_ROWS = 1024
"""Images whose similarities to all others are in memory at a time."""


class LabelledFeatures(NamedTuple):
    """Features of the images of a source that could be read.

    Attributes:
        features: pooled features, one row an image.
        labels: true classes.
        positions: index of each image in the source.
    """

    features: Float[np.ndarray, "n features"]
    labels: Int[np.ndarray, " n"]
    positions: Int[np.ndarray, " n"]


def compute_features(
    features: Callable[[UInt8[np.ndarray, "b h w c"]], Float[np.ndarray, "b features"]],
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    num_workers: int | None = None,
    bad_images: BadImages | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> LabelledFeatures:
    """Features of every image of a source.

    Args:
        features: from uint8 images of the model's size to their pooled features.
        source: labelled images.
        preprocessing: how images become the model's input.
        batch_size: images computed together.
        num_workers: processes that read images.
        bad_images: whether images that cannot be read are left out.
        on_batch: called after every batch with the number of images done.

    Raises:
        DataError: when there are no images, or one cannot be read and is not to be left out.
    """
    rows, labels, valid = [], [], []
    for batch in batches_of(
        source,
        preprocessing,
        batch_size=batch_size,
        num_workers=num_workers,
        bad_images=bad_images,
        on_batch=on_batch,
    ):
        rows.append(features(batch["image"]))
        labels.append(batch["label"])
        valid.append(batch["valid"])
    # Batches come in the order of the source, so a row's index is its position there.
    positions = np.flatnonzero(np.concatenate(valid))
    return LabelledFeatures(
        np.concatenate(rows)[positions], np.concatenate(labels)[positions], positions
    )


def predict_by_neighbours(
    known: LabelledFeatures,
    unknown: LabelledFeatures,
    source: ImageSource,
    *,
    k: int,
    num_classes: int,
) -> Predictions:
    """Classify images by the votes of their k nearest neighbours among known ones.

    A class's probability is its part of the votes; the loss of a class without votes is infinite.

    Args:
        known: images whose labels vote.
        unknown: images to classify; their own labels only score the result.
        source: where the unknown images are from.
        k: number of neighbours, by cosine similarity.
        num_classes: number of classes.

    Raises:
        ConfigError: when ``k`` is below 1 or above the number of known images.
    """
    if not 1 <= k <= len(known.labels):
        raise ConfigError(
            f"knn is {k}; expected from 1 to {len(known.labels):,}, the images to compare with"
        )
    bank = _normalised(known.features).T
    votes = np.zeros((len(unknown.labels), num_classes), np.float32)
    for start in range(0, len(votes), _ROWS):
        rows = slice(start, start + _ROWS)
        similarities = _normalised(unknown.features[rows]) @ bank
        nearest = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
        weights = np.exp(np.take_along_axis(similarities, nearest, axis=1) / TEMPERATURE)
        classes = known.labels[nearest]
        np.add.at(votes[rows], (np.arange(len(classes))[:, None], classes), weights)
    probabilities = votes / votes.sum(axis=1, keepdims=True)
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    with np.errstate(divide="ignore"):
        losses = -np.log(probabilities[np.arange(len(votes)), unknown.labels])
    return Predictions(
        num_classes=num_classes,
        positions=unknown.positions.astype(np.int32),
        labels=unknown.labels,
        top_classes=top,
        top_probabilities=np.take_along_axis(probabilities, top, axis=1),
        losses=losses,
        source_digest=digest(source),
    )


def _normalised(features: Float[np.ndarray, "n features"]) -> Float[np.ndarray, "n features"]:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)
