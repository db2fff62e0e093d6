"""Metric sums against per-image loops, and their algebra bit for bit."""

import json
import math
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.evaluation.metrics import ClassificationSums


def slow_metrics(top_classes, losses, labels, valid, num_classes):
    """One image at a time, no arrays but the matrix."""
    confusion = [[0] * num_classes for _ in range(num_classes)]
    count = correct_at_1 = correct_at_5 = 0
    loss_sum = Fraction(0)
    for best_first, loss, label, is_valid in zip(top_classes, losses, labels, valid, strict=True):
        if not is_valid:
            continue
        count += 1
        correct_at_1 += int(best_first[0] == label)
        correct_at_5 += int(label in list(best_first)[:5])
        loss_sum += Fraction(float(loss))
        confusion[label][best_first[0]] += 1
    return confusion, count, correct_at_1, correct_at_5, loss_sum


def random_predictions(seed, num_images, num_classes, num_top, dtype=np.float32):
    generator = np.random.default_rng(seed)
    order = np.argsort(generator.random((num_images, num_classes)), axis=1)
    # Losses over many magnitudes, where the order of a float sum shows.
    losses = generator.standard_normal(num_images) * 10.0 ** generator.integers(-8, 8, num_images)
    largest = float(np.finfo(dtype).max)
    return (
        order[:, :num_top].astype(np.int32),
        losses.clip(-largest, largest).astype(dtype),
        generator.integers(0, num_classes, num_images).astype(np.int32),
        generator.random(num_images) < 0.8,
    )


def sums_of(predictions, rows, num_classes):
    return ClassificationSums.from_predictions(*(p[rows] for p in predictions), num_classes)


def bits(sums):
    """Every held value in a form in which equal means identical."""
    return (
        sums.confusion.dtype.str,
        sums.confusion.tobytes(),
        sums.correct_at_5,
        sums.finite_loss_sum.as_integer_ratio(),
        sums.nonfinite_loss_sum.hex(),
    )


ALL = slice(None)
problems = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 12), st.integers(1, 12)
)


@given(problems)
def test_sums_match_a_loop_over_images(problem):
    seed, num_images, num_classes, num_top = problem
    predictions = random_predictions(seed, num_images, num_classes, num_top)
    sums = sums_of(predictions, ALL, num_classes)
    confusion, count, correct_at_1, correct_at_5, loss_sum = slow_metrics(*predictions, num_classes)
    assert sums.confusion.dtype == np.int64
    assert sums.confusion.tolist() == confusion
    assert (sums.count, sums.correct_at_1, sums.correct_at_5) == (count, correct_at_1, correct_at_5)
    assert sums.finite_loss_sum == loss_sum
    assert sums.per_class_count.tolist() == [sum(row) for row in confusion]
    for label, accuracy in enumerate(sums.per_class_accuracy.tolist()):
        if sum(confusion[label]) == 0:
            assert math.isnan(accuracy)
        else:
            assert accuracy == confusion[label][label] / sum(confusion[label])
    if count:
        assert sums.top1 == correct_at_1 / count
        assert sums.top5 == correct_at_5 / count
        assert sums.loss == float(loss_sum / count)


@given(problems, st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=50)
def test_batches_and_their_order_change_no_bit(problem, random, with_nonfinite):
    seed, num_images, num_classes, num_top = problem
    predictions = random_predictions(seed, num_images, num_classes, num_top)
    if with_nonfinite and num_images >= 3:
        predictions[1][:3] = random.choices([np.inf, -np.inf, np.nan], k=3)
    whole = bits(sums_of(predictions, ALL, num_classes))

    images = list(range(num_images))
    random.shuffle(images)
    cuts = sorted(random.choices(range(num_images + 1), k=3))
    parts = [
        sums_of(predictions, np.array(images[start:stop], int), num_classes)
        for start, stop in zip([0, *cuts], [*cuts, num_images], strict=True)
    ]
    first, second, third, fourth = parts
    assert bits(reduce(ClassificationSums.merge, parts)) == whole
    assert bits(fourth.merge(third.merge(second.merge(first)))) == whole
    assert bits(first.merge(third).merge(fourth.merge(second))) == whole


def test_float_sums_would_have_depended_on_the_order():
    """The losses above are such that a plain float sum fails the property."""
    _, losses, _, _ = random_predictions(0, 30, 3, 1)
    assert sum(losses.tolist()) != sum(losses[::-1].tolist())


@given(problems)
def test_empty_is_the_identity(problem):
    seed, num_images, num_classes, num_top = problem
    sums = sums_of(random_predictions(seed, num_images, num_classes, num_top), ALL, num_classes)
    empty = ClassificationSums.empty(num_classes)
    assert bits(empty.merge(sums)) == bits(sums) == bits(sums.merge(empty))
    assert empty.merge(sums) == sums


@given(problems)
def test_padding_is_not_read(problem):
    seed, num_images, num_classes, num_top = problem
    predictions = random_predictions(seed, num_images, num_classes, num_top)
    valid = predictions[3]
    kept = bits(sums_of(predictions, valid, num_classes))
    predictions[0][~valid] = -7
    predictions[1][~valid] = np.nan
    predictions[2][~valid] = 10**6
    assert bits(sums_of(predictions, ALL, num_classes)) == kept


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_type_is_summed_exactly(dtype):
    predictions = random_predictions(3, 20, 4, 4, dtype)
    predictions[3][:] = True
    sums = sums_of(predictions, ALL, 4)
    assert sums.finite_loss_sum == sum(Fraction(float(loss)) for loss in predictions[1])


@pytest.mark.parametrize(
    ("losses", "mean"),
    [
        ([1.0, np.nan], math.nan),
        ([1.0, np.inf], math.inf),
        ([1.0, -np.inf], -math.inf),
        ([np.inf, -np.inf], math.nan),
        ([1.7e308, 1.7e308], 1.7e308),
        ([5e-324, 5e-324], 5e-324),
        ([-0.0, 0.0], 0.0),
    ],
)
def test_odd_losses(losses, mean):
    zeros = np.zeros(2, np.int64)
    sums = ClassificationSums.from_predictions(
        zeros[:, None], np.array(losses), zeros, np.ones(2, bool), 1
    )
    assert math.isnan(sums.loss) if math.isnan(mean) else sums.loss == mean
    assert sums == sums.merge(ClassificationSums.empty(1))
    as_json = sums.to_json(["only"])
    assert as_json["loss"] == (round(mean, 6) if math.isfinite(mean) else None)
    json.dumps(as_json, allow_nan=False)


def test_top5_is_the_first_five_columns():
    top_classes = np.arange(8)[None].repeat(8, axis=0)
    labels = np.arange(8)
    sums = ClassificationSums.from_predictions(
        top_classes, np.zeros(8), labels, np.ones(8, bool), 8
    )
    assert (sums.correct_at_1, sums.correct_at_5) == (1, 5)


def test_small_label_types_do_not_overflow():
    labels = np.array([99, 3], np.int8)
    sums = ClassificationSums.from_predictions(
        labels[:, None], np.zeros(2), labels, np.ones(2, bool), 100
    )
    assert sums.confusion[99, 99] == sums.confusion[3, 3] == 1


def test_json_holds_plain_numbers():
    sums = ClassificationSums.from_predictions(
        np.array([[0, 1], [1, 0], [1, 2]]),
        np.array([0.5, 0.25, 0.75], np.float32),
        np.array([0, 0, 1]),
        np.ones(3, bool),
        3,
    )
    expected = {
        "top1": 2 / 3,
        "top5": 1.0,
        "loss": 0.5,
        "count": 3,
        "per_class": [
            {"class": "cat", "accuracy": 0.5, "count": 2},
            {"class": "dog", "accuracy": 1.0, "count": 1},
            {"class": "emu", "accuracy": None, "count": 0},
        ],
    }
    assert json.loads(json.dumps(sums.to_json(["cat", "dog", "emu"]), allow_nan=False)) == expected


@pytest.mark.parametrize("name", ["top1", "top5", "loss"])
def test_metrics_over_no_images_say_so(name):
    with pytest.raises(DataError, match="no images"):
        getattr(ClassificationSums.empty(3), name)


def test_per_class_values_over_no_images_are_undefined():
    empty = ClassificationSums.empty(2)
    assert empty.count == 0
    assert np.isnan(empty.per_class_accuracy).all()
    with pytest.raises(DataError, match="no images"):
        empty.to_json(["a", "b"])


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(label):
    with pytest.raises(DataError, match=f"label {label} is out of range; expected 0 to 2"):
        ClassificationSums.from_predictions(
            np.array([[0]]), np.zeros(1), np.array([label]), np.ones(1, bool), 3
        )


@pytest.mark.parametrize("predicted", [-1, 3])
def test_predictions_out_of_range_are_refused(predicted):
    with pytest.raises(DataError, match=f"predicted class {predicted} is out of range"):
        ClassificationSums.from_predictions(
            np.array([[0, predicted]]), np.zeros(1), np.array([0]), np.ones(1, bool), 3
        )


def test_predictions_without_a_column_are_refused():
    with pytest.raises(DataError, match="top_classes has no column"):
        ClassificationSums.from_predictions(
            np.zeros((1, 0), int), np.zeros(1), np.array([0]), np.ones(1, bool), 3
        )


def test_mismatched_class_counts_are_refused():
    with pytest.raises(DataError, match="over 2 classes with metrics over 3"):
        ClassificationSums.empty(2).merge(ClassificationSums.empty(3))
    with pytest.raises(DataError, match="1 class names; expected 2"):
        ClassificationSums.empty(2).to_json(["a"])
    with pytest.raises(DataError, match="num_classes is 0"):
        ClassificationSums.empty(0)


def test_sums_cannot_be_changed():
    sums = ClassificationSums.empty(2)
    with pytest.raises(ValueError, match="read-only"):
        sums.confusion[0, 0] = 1


def test_different_sums_are_not_equal():
    one = ClassificationSums.from_predictions(
        np.array([[0]]), np.ones(1), np.array([0]), np.ones(1, bool), 2
    )
    assert one != ClassificationSums.empty(2)
    assert ClassificationSums.empty(3) != ClassificationSums.empty(2)
    assert one != "one"
