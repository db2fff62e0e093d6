"""Every metric against a loop over images; files come back whole or are refused in one line."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottleneck_transformer_flax.errors import CheckpointError, DataError
from bottleneck_transformer_flax.evaluation.calibration import reliability
from bottleneck_transformer_flax.evaluation.predictions import Predictions

problems = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12), st.integers(1, 12)
)


def random_predictions(seed, count, num_classes, num_top):
    random = np.random.default_rng(seed)
    order = np.argsort(random.random((count, num_classes)), axis=1)[:, :num_top]
    # Losses over many magnitudes, where the order of a float sum shows; few probabilities, so
    # that some are equal.
    losses = random.standard_normal(count) * 10.0 ** random.integers(-8, 8, count)
    return Predictions(
        num_classes=num_classes,
        positions=np.sort(random.choice(2 * count, count, replace=False)).astype(np.int32),
        labels=random.integers(0, num_classes, count).astype(np.int32),
        top_classes=order.astype(np.int32),
        top_probabilities=(random.integers(0, 5, order.shape) / 8).astype(np.float32),
        losses=losses.astype(np.float32),
        source_digest="a digest",
    )


def predictions_of(labels, top_classes, num_classes, losses=None):
    count, top_classes = len(labels), np.array(top_classes)
    return Predictions(
        num_classes=num_classes,
        positions=np.arange(count),
        labels=np.array(labels, int),
        top_classes=top_classes,
        top_probabilities=np.full(top_classes.shape, 0.5),
        losses=np.zeros(count) if losses is None else losses,
    )


def columns_of(predictions):
    return {name: np.asarray(value).tobytes() for name, value in vars(predictions).items()}


@given(problems)
def test_metrics_match_a_loop_over_images(problem):
    predictions = random_predictions(*problem)
    classes = predictions.num_classes
    confusion = [[0] * classes for _ in range(classes)]
    right_at_1 = right_at_5 = 0
    loss_sum = Fraction(0)
    for label, best_first, loss in zip(
        predictions.labels, predictions.top_classes, predictions.losses, strict=True
    ):
        confusion[label][best_first[0]] += 1
        right_at_1 += int(best_first[0] == label)
        right_at_5 += int(label in list(best_first)[:5])
        loss_sum += Fraction(float(loss))
    count = predictions.count
    assert count == sum(map(sum, confusion))
    assert predictions.confusion.tolist() == confusion
    assert (predictions.top1, predictions.top5) == (right_at_1 / count, right_at_5 / count)
    # In any order of the images: the sum is rounded once, and the mean once more.
    assert predictions.loss == float(loss_sum) / count
    assert predictions.per_class_count.tolist() == [sum(row) for row in confusion]
    # As scikit-learn has them: the mean accuracy of classes with images; the mean F1 score of
    # classes with images or predictions.
    sizes, predicted = list(map(sum, confusion)), list(map(sum, zip(*confusion, strict=True)))
    recalls = [confusion[c][c] / sizes[c] for c in range(classes) if sizes[c]]
    scores = [
        2 * confusion[c][c] / (sizes[c] + predicted[c])
        for c in range(classes)
        if sizes[c] + predicted[c]
    ]
    assert predictions.balanced_accuracy == pytest.approx(sum(recalls) / len(recalls))
    assert predictions.macro_f1 == pytest.approx(sum(scores) / len(scores))
    correct = predictions.top_classes[:, 0] == predictions.labels
    assert predictions.ece == reliability(predictions.top_probabilities[:, 0], correct).ece
    for label, accuracy in enumerate(predictions.per_class_accuracy.tolist()):
        images = sum(confusion[label])
        assert accuracy == confusion[label][label] / images if images else math.isnan(accuracy)


@given(problems, st.integers(0, 40))
def test_mistakes_match_a_loop_over_images(problem, wanted):
    predictions = random_predictions(*problem)
    expected = []
    for row in range(predictions.count):
        label, predicted = int(predictions.labels[row]), int(predictions.top_classes[row, 0])
        if label != predicted:
            probability = float(predictions.top_probabilities[row, 0])
            expected.append((int(predictions.positions[row]), label, predicted, probability))
    # Sorting is stable: the earlier image stays first among equals.
    expected.sort(key=lambda mistake: -mistake[3])
    assert predictions.mistakes(wanted) == expected[:wanted]


@pytest.mark.parametrize(
    ("losses", "mean"),
    [
        ([1.0, np.nan], math.nan),
        ([1.0, np.inf], math.inf),
        ([1.0, -np.inf], -math.inf),
        ([np.inf, -np.inf], math.nan),
        ([3e38, 3e38], float(np.float32(3e38))),
        ([1e-45, 1e-45], float(np.float32(1e-45))),
        ([-0.0, 0.0], 0.0),
    ],
)
def test_odd_losses(losses, mean):
    predictions = predictions_of([0, 0], [[0], [0]], 1, np.array(losses, np.float32))
    assert math.isnan(predictions.loss) if math.isnan(mean) else predictions.loss == mean
    as_json = predictions.to_json(["only"])
    assert as_json["loss"] == (round(mean, 6) if math.isfinite(mean) else None)
    json.dumps(as_json, allow_nan=False)


def test_small_label_types_do_not_overflow():
    labels, predictions = np.array([99, 3], np.int8), predictions_of([0, 0], [[0], [0]], 100)
    small = dataclasses.replace(predictions, labels=labels, top_classes=labels[:, None])
    assert small.confusion[99, 99] == small.confusion[3, 3] == 1


def test_json_holds_plain_numbers():
    losses = np.array([0.5, 0.25, 0.75], np.float32)
    predictions = predictions_of([0, 0, 1], [[0, 1], [1, 0], [1, 2]], 3, losses)
    expected = {"top1": 2 / 3, "top5": 1.0, "loss": 0.5, "count": 3} | {
        "balanced_accuracy": 0.75,
        "macro_f1": pytest.approx(2 / 3),
        "ece": 0.166667,
        "per_class": [
            {"class": "cat", "accuracy": 0.5, "count": 2},
            {"class": "dog", "accuracy": 1.0, "count": 1},
            {"class": "emu", "accuracy": None, "count": 0},
        ],
    }
    as_json = predictions.to_json(["cat", "dog", "emu"])
    assert json.loads(json.dumps(as_json, allow_nan=False)) == expected
    with pytest.raises(DataError, match="1 class names; expected 3"):
        predictions.to_json(["a"])


def test_metrics_over_no_images_say_so():
    empty = predictions_of([], np.zeros((0, 1), int), 2)
    assert empty.count == 0
    assert np.isnan(empty.per_class_accuracy).all()
    for metric in ("top1", "top5", "balanced_accuracy", "macro_f1", "ece", "loss"):
        with pytest.raises(DataError, match="no images"):
            getattr(empty, metric)
    with pytest.raises(DataError, match="no images"):
        empty.to_json(["a", "b"])


def test_a_temperature_changes_probabilities_and_nothing_else():
    random = np.random.default_rng(0)
    logits = (30 * random.standard_normal((40, 7))).astype(np.float32)
    order = np.argsort(-logits, axis=1)[:, :5]
    kept = dataclasses.replace(
        predictions_of(random.integers(0, 7, 40), order, 7, random.random(40)), logits=logits
    )
    for temperature in (0.01, 1.0, 20.0):
        found = kept.calibrated(temperature)
        scaled = logits.astype(np.float64) / temperature
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        expected = exponentials / exponentials.sum(axis=1, keepdims=True)
        expected = np.take_along_axis(expected, order, axis=1)
        np.testing.assert_allclose(found.top_probabilities, expected, rtol=1e-3, atol=1e-30)
        assert found.logits is None
        unchanged = vars(kept).keys() - {"top_probabilities", "logits"}
        assert all(getattr(found, name) is getattr(kept, name) for name in unchanged)


@pytest.mark.parametrize(
    ("label", "predicted", "message"),
    [
        (-1, [0], "label -1 is out of range; expected 0 to 2"),
        (0, [0, 3], "predicted class 3 is out of range"),
    ],
)
def test_classes_out_of_range_are_refused(label, predicted, message):
    with pytest.raises(DataError, match=message):
        predictions_of([label], [predicted], 3)


def test_predictions_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        predictions_of([0], [[0]], 2).labels[0] = 1


def test_a_saved_file_is_loaded_again(tmp_path):
    predictions = random_predictions(1, 20, 7, 5)
    # Logits, which are as large as the data set, stay in memory.
    logits = np.zeros((20, 7), np.float32)
    dataclasses.replace(predictions, logits=logits).save(tmp_path / "predictions.npz")
    assert columns_of(Predictions.load(tmp_path / "predictions.npz")) == columns_of(predictions)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    whole, path = tmp_path / "whole.npz", tmp_path / "predictions.npz"
    random_predictions(1, 20, 7, 5).save(whole)
    content, random = whole.read_bytes(), np.random.default_rng(0)
    flipped = [bytearray(content) for _ in range(60)]
    for copy in flipped:
        copy[random.integers(len(copy))] ^= 1 << random.integers(8)
    cut = [content[: len(content) * part // 10] for part in range(10)]
    for damaged in [*cut, *flipped, b"no archive"]:
        path.write_bytes(damaged)
        try:
            # Not every bit of an archive matters: dates, for example.
            assert columns_of(Predictions.load(path)) == columns_of(Predictions.load(whole))
            assert len(damaged) == len(content)
        except CheckpointError as error:
            assert str(path) in str(error) and "remove it" in str(error)
            assert "\n" not in str(error)
    np.savez(path, labels=np.zeros(1))
    for file, reason in ((path, "not a file in the archive"), (tmp_path / "no", "no such file")):
        with pytest.raises(CheckpointError, match=reason):
            Predictions.load(file)
