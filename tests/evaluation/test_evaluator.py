"""Predictions are NumPy's and don't depend on the batches; bad images stop, or count nowhere."""

import jax
import numpy as np
import pytest

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.datasets import load_folder_all
from bottleneck_transformer_flax.data.sources.base import select
from bottleneck_transformer_flax.distributed import make_data_parallel
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
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
    truncated_jpeg,
    write_classes,
)

COUNT = 17


def model_of(kind=LinearModel, classes=3):
    model = kind(config=SMALL.replace(num_classes=classes))
    return model, random_variables(abstract_variables(model, SIZE), seed=4)


def logits_of(model, variables, images):
    return np.asarray(jax.jit(model.apply)(variables, CROPPED.normalize(images)), np.float64)


def losses_of(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    return log_sums - shifted[np.arange(len(labels)), labels]


def evaluate(model, variables, source, batch_size, devices=None, **options):
    evaluator = Evaluator(model, CROPPED, batch_size=batch_size, devices=devices)
    return evaluator(variables, source, **options)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
@pytest.mark.parametrize("num_devices", [None, 2])
def test_predictions_are_numpy_s_whatever_the_batch_size(batch_size, num_devices):
    model, variables = model_of(classes=7)
    # The last class has no images.
    labels = (np.arange(COUNT) % 6).astype(np.int32)
    source = ArraySource(colour_images(COUNT, 6), labels, tuple("abcdefg"), "seven")
    logits = logits_of(model, variables, source.images)
    order = np.argsort(-logits, axis=1)[:, :5]
    devices = None if num_devices is None else make_data_parallel(num_devices)
    found = evaluate(model, variables, source, batch_size, devices)
    assert found.num_classes == 7
    np.testing.assert_array_equal(found.positions, np.arange(COUNT))
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.top_classes, order)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    expected = np.take_along_axis(probabilities, order, axis=1)
    np.testing.assert_allclose(found.top_probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(found.losses, losses_of(logits, labels), rtol=1e-5)
    assert found.top1 < found.top5 < 1


def test_a_real_model_s_predictions_don_t_depend_on_the_batch_size():
    model, variables = model_of(BoTNet)
    source = array_source(COUNT)
    logits = logits_of(model, variables, source.images)
    first, second = [evaluate(model, variables, source, size) for size in (3, 7)]
    np.testing.assert_array_equal(second.top_classes, first.top_classes)
    assert second.loss == pytest.approx(first.loss, rel=1e-6)
    np.testing.assert_array_equal(first.top_classes[:, 0], logits.argmax(axis=1))
    assert first.loss == pytest.approx(losses_of(logits, source.labels).mean(), rel=1e-4)


def test_progress_is_told_and_padding_is_no_image():
    model, variables = model_of()
    told = []
    found = evaluate(model, variables, array_source(COUNT), 7, on_batch=told.append)
    assert told == [7, 14, 17]
    assert found.per_class_count.tolist() == [6, 6, 5]


@pytest.mark.parametrize("batches", [0, 1, 2, 3])
@pytest.mark.parametrize("devices", [None, 1])
def test_it_stops_between_batches_where_asked_to(batches, devices):
    model, variables = model_of()
    told = []
    asked = {"on_batch": told.append, "should_stop": lambda: len(told) == batches}
    devices = devices and make_data_parallel(devices)
    found = evaluate(model, variables, array_source(COUNT), 7, devices, **asked)
    assert told == [7, 14, 17][:batches]
    # After the last batch nothing is left to stop.
    assert (found is None) == (batches < 3)


def test_an_evaluator_can_be_used_again():
    model, variables = model_of()
    evaluator = Evaluator(model, CROPPED, batch_size=4)
    source = array_source(6)
    first, second = (evaluator(variables, source).losses.tobytes() for _ in range(2))
    assert first == second
    other = jax.tree.map(lambda leaf: -leaf, variables)
    assert evaluator(other, source).losses.tobytes() != first


def test_a_loss_that_is_not_finite_is_kept():
    model, variables = model_of()
    broken = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), variables)
    assert np.isnan(evaluate(model, broken, array_source(4), 4).losses).all()


def test_no_images_and_no_batch_size_are_refused():
    model, variables = model_of()
    with pytest.raises(ConfigError, match="batch_size is 0"):
        evaluate(model, variables, array_source(4), 0)
    with pytest.raises(DataError, match="no images to evaluate"):
        evaluate(model, variables, array_source(0), 4)


@pytest.fixture
def with_bad(tmp_path):
    """Four images a class; one of the bees is cut short and one is no image."""
    write_classes(tmp_path, dict.fromkeys(CLASSES, 4))
    (tmp_path / "bee" / "1.png").write_text("no image")
    return tmp_path, [str(tmp_path / "bee/1.png"), str(truncated_jpeg(tmp_path / "bee/x.jpg"))]


def test_an_image_that_cannot_be_read_stops_with_its_path(with_bad):
    root, bad = with_bad
    with pytest.raises(DataError) as caught:
        evaluate(*model_of(), load_folder_all(root), 3)
    assert bad[0] in str(caught.value)
    assert "--skip-bad-images" in str(caught.value)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_left_out_they_count_nowhere_and_are_listed(with_bad, batch_size):
    root, bad = with_bad
    model, variables = model_of()
    source = load_folder_all(root)
    assert len(source) == 13
    bad_images = BadImages(skip=True)
    found = evaluate(model, variables, source, batch_size, bad_images=bad_images)
    left_out = set(range(13)) - {*found.positions}
    assert {source.describe(index) for index in left_out} == {*bad} == {*bad_images.reasons}
    only_bad = select(source, np.array(sorted(left_out)))
    assert evaluate(model, variables, only_bad, batch_size, bad_images=bad_images).count == 0
    for path in bad:
        (root / path).unlink()
    clean = evaluate(model, variables, load_folder_all(root), 100)
    np.testing.assert_array_equal(found.labels, clean.labels)
    np.testing.assert_array_equal(found.top_classes, clean.top_classes)
    np.testing.assert_allclose(found.losses, clean.losses, rtol=1e-5)


def test_images_are_prepared_as_the_record_says(tmp_path):
    write_classes(tmp_path, dict.fromkeys(CLASSES, 2), size=(30, 40))
    preprocessing = CROPPED.replace(crop=0.7, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
    model, variables = model_of()
    source = load_folder_all(tmp_path)
    transform = EvaluationTransform(preprocessing)
    images = np.stack([transform(source.open(index)) for index in range(6)])
    normal = (images / 255 - [0.2, 0.3, 0.4]) / [0.5, 0.6, 0.7]
    logits = np.asarray(model.apply(variables, normal.astype(np.float32)), np.float64)
    found = Evaluator(model, preprocessing, batch_size=4)(variables, source)
    losses = losses_of(logits, np.repeat([0, 1, 2], 2))
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
