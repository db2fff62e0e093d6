"""The vote of nearest neighbours is that of a slow loop, and features are those of each image."""

import math

import numpy as np
import pytest

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.datasets import load_folder_all
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.evaluation import neighbours
from bottleneck_transformer_flax.evaluation.neighbours import (
    LabelledFeatures,
    compute_features,
    predict_by_neighbours,
)
from training.tiny import CLASSES, CROPPED, array_source, truncated_jpeg, write_classes


def labelled(count, seed, classes=4, size=5):
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, size)).astype(np.float32)
    return LabelledFeatures(features, random.integers(classes, size=count), np.arange(count))


def votes_by_hand(known, feature, k, classes):
    """Share of the votes of each class for one image, in float64."""
    similarities = [
        float(feature @ other) / math.sqrt(float(feature @ feature) * float(other @ other))
        for other in known.features.astype(np.float64)
    ]
    votes = [0.0] * classes
    for index in sorted(range(len(similarities)), key=lambda i: -similarities[i])[:k]:
        votes[known.labels[index]] += math.exp(similarities[index] / 0.07)
    return np.array(votes) / sum(votes)


@pytest.mark.parametrize("k", [1, 6, 30])
def test_the_votes_are_those_of_a_loop(monkeypatch, k):
    monkeypatch.setattr(neighbours, "_ROWS", 3)
    known, unknown, source = labelled(30, 1), labelled(7, 2), array_source(7)
    found = predict_by_neighbours(known, unknown, source, k=k, num_classes=4)
    assert found.count == 7
    for row, feature in enumerate(unknown.features.astype(np.float64)):
        expected = votes_by_hand(known, feature, k, 4)
        order = np.argsort(-expected, kind="stable")
        voted = int((expected > 0).sum())
        np.testing.assert_array_equal(found.top_classes[row, :voted], order[:voted])
        np.testing.assert_allclose(found.top_probabilities[row], expected[order], atol=1e-4)
        with np.errstate(divide="ignore"):
            loss = -np.log(expected[unknown.labels[row]])
        np.testing.assert_allclose(found.losses[row], loss, rtol=1e-3, atol=1e-5)


def test_an_image_without_features_votes_for_all_alike():
    unknown = LabelledFeatures(np.zeros((1, 5), np.float32), np.zeros(1, int), np.arange(1))
    known = LabelledFeatures(labelled(4, 1).features, np.arange(4), np.arange(4))
    found = predict_by_neighbours(known, unknown, array_source(1), k=4, num_classes=4)
    np.testing.assert_allclose(found.top_probabilities, 0.25)


@pytest.mark.parametrize("k", [0, 31])
def test_a_number_of_neighbours_that_there_cannot_be_is_told(k):
    with pytest.raises(ConfigError, match=f"knn is {k}; expected from 1 to 30"):
        predict_by_neighbours(labelled(30, 1), labelled(7, 2), array_source(7), k=k, num_classes=4)


@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_features_are_of_each_image_that_can_be_read(tmp_path, batch_size):
    source = load_folder_all(write_classes(tmp_path / "photos", dict.fromkeys(CLASSES, 3)))
    bad = tmp_path / "photos" / source.names[4]
    truncated_jpeg(bad)
    transform = EvaluationTransform(CROPPED)
    found = compute_features(
        lambda images: images.mean(axis=(1, 2)).astype(np.float32),
        source,
        CROPPED,
        batch_size=batch_size,
        num_workers=0,
        bad_images=BadImages(skip=True),
    )
    good = [index for index in range(len(source)) if index != 4]
    np.testing.assert_array_equal(found.positions, good)
    np.testing.assert_array_equal(found.labels, source.labels[good])
    for row, index in enumerate(good):
        expected = transform(source.open(index)).mean(axis=(0, 1))
        np.testing.assert_allclose(found.features[row], expected, rtol=1e-5)
