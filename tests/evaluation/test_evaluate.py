"""Scores are exact and don't depend on the batches; bad images stop, or count nowhere."""

from fractions import Fraction

import jax
import numpy as np
import pytest

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.datasets import load_folder_all
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.evaluation.evaluate import Evaluator
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from reference.variables import random_variables
from training.tiny import (
    CLASSES,
    CROPPED,
    SIZE,
    SMALL,
    ArraySource,
    LinearModel,
    array_source,
    colour_images,
    labels_of,
    truncated_jpeg,
    write_classes,
)

COUNT = 17
NAMES = tuple("abcdefg")


def model_of(kind=LinearModel, classes=3):
    model = kind(config=SMALL.replace(num_classes=classes))
    return model, random_variables(abstract_variables(model, SIZE), seed=4)


def logits_of(model, variables, images):
    return np.asarray(jax.jit(model.apply)(variables, CROPPED.normalize(images)), np.float64)


def losses_of(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    return log_sums - shifted[np.arange(len(labels)), labels]


def evaluate(model, variables, source, batch_size, skip=False, **options):
    bad_images = BadImages(skip=skip)
    evaluator = Evaluator(model, CROPPED, batch_size=batch_size)
    return evaluator(variables, source, bad_images=bad_images, **options), bad_images


def seven_classes(count=COUNT):
    """More classes than five, and the last without images."""
    return ArraySource(
        colour_images(count, 6), (np.arange(count) % 6).astype(np.int32), NAMES, "seven"
    )


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_figures_are_numpy_s_whatever_the_batch_size(batch_size):
    model, variables = model_of(classes=7)
    source = seven_classes()
    logits = logits_of(model, variables, source.images)
    order = np.argsort(-logits, axis=1)
    right = order[:, 0] == source.labels
    sums, _ = evaluate(model, variables, source, batch_size)
    result = sums.to_json(NAMES)
    assert result["count"] == COUNT
    assert result["top1"] == right.sum() / COUNT
    assert result["top5"] == (order[:, :5] == source.labels[:, None]).any(axis=1).sum() / COUNT
    assert result["top1"] < result["top5"] < 1
    assert result["loss"] == pytest.approx(losses_of(logits, source.labels).mean(), rel=1e-5)
    for index, row in enumerate(result["per_class"]):
        mine = source.labels == index
        assert row["class"] == NAMES[index]
        assert row["count"] == mine.sum()
        assert row["accuracy"] == (right[mine].mean() if mine.any() else None)
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (source.labels, order[:, 0]), 1)
    np.testing.assert_array_equal(sums.confusion, expected)


def test_a_real_model_s_figures_don_t_depend_on_the_batch_size():
    model, variables = model_of(BoTNet)
    source = array_source(COUNT)
    images = source.images
    logits = logits_of(model, variables, images)
    results = [evaluate(model, variables, source, size)[0] for size in (1, 7, 100)]
    for sums in results:
        assert np.array_equal(sums.confusion, results[0].confusion)
        assert (sums.count, sums.correct_at_5) == (COUNT, COUNT)
        assert sums.loss == pytest.approx(results[0].loss, rel=1e-6)
    assert results[0].top1 == (logits.argmax(axis=1) == source.labels).mean()
    assert results[0].loss == pytest.approx(losses_of(logits, source.labels).mean(), rel=1e-4)


def test_padding_is_not_an_image_of_class_0():
    model, variables = model_of()
    source = ArraySource(colour_images(2), np.full(2, 2, np.int32), CLASSES, "two")
    sums, _ = evaluate(model, variables, source, 8)
    assert sums.per_class_count.tolist() == [0, 0, 2]


def test_progress_is_told():
    model, variables = model_of()
    told = []
    evaluate(model, variables, array_source(COUNT), 7, on_batch=told.append)
    assert told == [7, 14, 17]


def test_an_evaluator_can_be_used_again():
    model, variables = model_of()
    evaluator = Evaluator(model, CROPPED, batch_size=4)
    source = array_source(6)
    first, second = (
        evaluator(variables, source, bad_images=BadImages(skip=False)) for _ in range(2)
    )
    assert first == second
    other = jax.tree.map(lambda leaf: -leaf, variables)
    assert evaluator(other, source, bad_images=BadImages(skip=False)) != first


def test_a_loss_that_is_not_finite_is_kept():
    model, variables = model_of()
    broken = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), variables)
    sums, _ = evaluate(model, broken, array_source(4), 4)
    assert np.isnan(sums.loss)
    assert sums.to_json(CLASSES)["loss"] is None


def test_batch_size_out_of_range():
    model, variables = model_of()
    with pytest.raises(ConfigError, match="batch_size is 0"):
        evaluate(model, variables, array_source(4), 0)


@pytest.fixture
def with_bad(tmp_path):
    """Four images a class; one of the bees is cut short and one is no image."""
    write_classes(tmp_path, dict.fromkeys(CLASSES, 4))
    (tmp_path / "bee" / "1.png").write_text("no image")
    return tmp_path, [str(tmp_path / "bee/1.png"), str(truncated_jpeg(tmp_path / "bee/x.jpg"))]


def test_an_image_that_cannot_be_read_stops_with_its_path(with_bad):
    root, bad = with_bad
    model, variables = model_of()
    with pytest.raises(DataError) as caught:
        evaluate(model, variables, load_folder_all(root), 3)
    assert bad[0] in str(caught.value)
    assert "--skip-bad-images" in str(caught.value)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_left_out_they_count_nowhere_and_are_listed(with_bad, batch_size):
    root, bad = with_bad
    model, variables = model_of()
    source = load_folder_all(root)
    assert len(source) == 13
    sums, bad_images = evaluate(model, variables, source, batch_size, skip=True)
    assert sums.per_class_count.tolist() == [4, 3, 4]
    assert list(bad_images.reasons) == bad
    for path in bad:
        (root / path).unlink()
    clean, _ = evaluate(model, variables, load_folder_all(root), 100)
    assert np.array_equal(clean.confusion, sums.confusion)
    assert float(clean.finite_loss_sum) == pytest.approx(float(sums.finite_loss_sum), rel=1e-6)
    assert isinstance(sums.finite_loss_sum, Fraction)


def test_images_are_prepared_as_the_record_says(tmp_path):
    write_classes(tmp_path, dict.fromkeys(CLASSES, 2), size=(30, 40))
    preprocessing = CROPPED.replace(crop=0.7, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
    model, variables = model_of()
    source = load_folder_all(tmp_path)
    transform = EvaluationTransform(preprocessing)
    images = np.stack([transform(source.open(index)) for index in range(6)])
    normal = (images / 255 - [0.2, 0.3, 0.4]) / [0.5, 0.6, 0.7]
    logits = np.asarray(model.apply(variables, normal.astype(np.float32)), np.float64)
    evaluator = Evaluator(model, preprocessing, batch_size=4)
    sums = evaluator(variables, source, bad_images=BadImages(skip=False))
    labels = np.repeat([0, 1, 2], 2)
    assert sums.top1 == (logits.argmax(axis=1) == labels).mean()
    assert sums.loss == pytest.approx(losses_of(logits, labels).mean(), rel=1e-5)


def test_labels_of_the_source_are_used():
    model, variables = model_of()
    images = colour_images(9)
    shifted = ArraySource(images, ((labels_of(9) + 1) % 3).astype(np.int32), CLASSES, "shifted")
    straight = ArraySource(images, labels_of(9), CLASSES, "straight")
    first, second = (evaluate(model, variables, one, 4)[0] for one in (straight, shifted))
    np.testing.assert_array_equal(np.roll(first.confusion, 1, axis=0), second.confusion)
