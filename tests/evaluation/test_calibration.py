"""Calibration error and temperature against slow, obvious oracles."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottleneck_transformer_flax.evaluation.calibration import (
    FEWEST_IMAGES,
    LARGEST_TEMPERATURE,
    fit_temperature,
    reliability,
)


def problem(seed, count, classes, scale=1.0):
    """Logits that say something of the labels, about ``scale`` times as much as they should."""
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((count, classes))
    labels = [random.choice(classes, p=row) for row in probabilities_of(logits)]
    return (scale * logits).astype(np.float32), np.array(labels, np.int32)


def probabilities_of(logits):
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def best_of_a_grid(logits, targets):
    """The temperature with the lowest cross-entropy of many."""
    grid = np.geomspace(0.02, 20, 4001)
    losses = [-np.mean(targets * np.log(probabilities_of(logits / t) + 1e-300)) for t in grid]
    return grid[np.argmin(losses)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 80))
def test_the_error_is_a_sum_over_fifteen_bins(seed, count):
    random = np.random.default_rng(seed)
    # Some confidences are on the edges of bins, as close as float32 comes.
    confidences = np.where(
        random.random(count) < 0.5, random.integers(0, 16, count) / 15, random.random(count)
    ).astype(np.float32)
    correct = random.random(count) < confidences
    found = reliability(confidences, correct)
    error = Fraction(0)
    for index in range(15):
        lower, upper = Fraction(index, 15), Fraction(index + 1, 15)
        inside = [
            (Fraction(float(confidence)), bool(right))
            for confidence, right in zip(confidences, correct, strict=True)
            if lower < Fraction(float(confidence)) <= upper or (index == 0 and confidence == 0)
        ]
        assert found.counts[index] == len(inside)
        if inside:
            accuracy = Fraction(sum(right for _, right in inside), len(inside))
            confidence = sum(value for value, _ in inside) / len(inside)
            error += Fraction(len(inside), count) * abs(accuracy - confidence)
            assert found.accuracies[index] == pytest.approx(float(accuracy))
            assert found.confidences[index] == pytest.approx(float(confidence))
        else:
            assert np.isnan([found.accuracies[index], found.confidences[index]]).all()
    assert found.ece == pytest.approx(float(error), abs=1e-12)


def test_a_confidence_that_is_nan_makes_the_error_nan():
    found = reliability(np.array([0.5, np.nan], np.float32), np.array([True, False]))
    assert np.isnan(found.ece)
    assert found.counts.sum() == 2


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (3, 4.0), (10, 0.2), (100, 1.5)])
def test_the_temperature_minimises_the_cross_entropy(classes, scale):
    logits, labels = problem(classes, 400, classes, scale)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(scale, rel=0.2)
    assert found == pytest.approx(best_of_a_grid(logits, np.eye(classes)[labels]), rel=2e-3)


def test_images_that_are_all_right_are_as_sure_as_one_more_image_allows():
    logits, _ = problem(3, 200, 5)
    labels = logits.argmax(axis=1)
    found = fit_temperature(logits, labels)
    targets = (1 - 1 / 201) * np.eye(5)[labels] + 1 / 201 / 5
    assert found == pytest.approx(best_of_a_grid(logits, targets), rel=2e-3)
    before, after = (probabilities_of(z).max(axis=1).mean() for z in (logits, logits / found))
    assert before < 0.8 and 0.9 < after < 1


@pytest.mark.parametrize("factor", [1 / 16, 3.0, 10.0])
def test_logits_times_k_have_a_temperature_k_times_as_high(factor):
    logits, labels = problem(5, 300, 7)
    expected = factor * fit_temperature(logits, labels)
    assert fit_temperature(np.float32(factor) * logits, labels) == pytest.approx(expected, rel=1e-5)
    # No probability changes where all logits of an image do.
    shifted = logits + np.arange(300, dtype=np.float32)[:, None]
    assert fit_temperature(shifted, labels) == pytest.approx(expected / factor, rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda z, y: (z[1:FEWEST_IMAGES], y[1:FEWEST_IMAGES]), id="too few images"),
        pytest.param(lambda z, y: (z, z.argmin(axis=1)), id="every image wrong"),
        pytest.param(lambda z, y: (0 * z, y), id="logits that say nothing"),
        pytest.param(lambda z, y: (z[:, :1], 0 * y), id="a single class"),
        pytest.param(lambda z, y: (2 * LARGEST_TEMPERATURE * z, y), id="above the range"),
        pytest.param(lambda z, y: (z / (2 * LARGEST_TEMPERATURE), y), id="below the range"),
        pytest.param(lambda z, y: (np.nan * z, y), id="not a number"),
    ],
)
def test_where_no_temperature_fits_best_there_is_none(change):
    logits, labels = change(*problem(1, 200, 5))
    assert fit_temperature(logits.astype(np.float32), labels) is None


def test_the_fewest_images_are_enough():
    assert fit_temperature(*problem(1, FEWEST_IMAGES, 5)) == pytest.approx(1, rel=0.5)
