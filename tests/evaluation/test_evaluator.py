"""Predictions are NumPy's and don't depend on the batches; bad images count nowhere."""

from pathlib import Path

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
PREPROCESSING = CROPPED.replace(
    crop=0.7, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7), temperature=2.5
)


def model_of(kind=LinearModel, classes=3):
    model = kind(config=SMALL.replace(num_classes=classes))
    return model, random_variables(abstract_variables(model, SIZE), seed=4)


def logits_of(model, variables, source):
    transform = EvaluationTransform(PREPROCESSING)
    images = np.stack([transform(source.open(index)) for index in range(len(source))])
    normal = (images / 255 - [0.2, 0.3, 0.4]) / [0.5, 0.6, 0.7]
    return np.asarray(jax.jit(model.apply)(variables, normal.astype(np.float32)), np.float64)


def probabilities_of(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def evaluate(model, variables, source, batch_size, devices=None, keep_logits=False, **options):
    evaluator = Evaluator(
        model, PREPROCESSING, batch_size=batch_size, keep_logits=keep_logits, devices=devices
    )
    return evaluator(variables, source, **options)


@pytest.mark.parametrize(("batch_size", "num_devices"), [(1, None), (7, None), (3, 2), (100, 2)])
def test_predictions_are_numpy_s_whatever_the_batch_size(batch_size, num_devices):
    model, variables = model_of(classes=7)
    # The last class has no images.
    labels = (np.arange(COUNT) % 6).astype(np.int32)
    images = colour_images(COUNT, 6, size=(30, 40))
    source = ArraySource(images, labels, tuple("abcdefg"), "seven")
    logits = logits_of(model, variables, source)
    order = np.argsort(-logits, axis=1)[:, :5]
    devices = None if num_devices is None else make_data_parallel(num_devices)
    found = evaluate(model, variables, source, batch_size, devices, keep_logits=True)
    assert found.num_classes == 7
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4)
    np.testing.assert_array_equal(found.positions, np.arange(COUNT))
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.top_classes, order)
    probabilities = probabilities_of(logits / 2.5)
    expected = np.take_along_axis(probabilities, order, axis=1)
    np.testing.assert_allclose(found.top_probabilities, expected, rtol=1e-5)
    # The loss is that of the logits, whatever the temperature.
    losses = -np.log(probabilities_of(logits)[np.arange(COUNT), labels])
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    assert found.top1 < found.top5 < 1


def test_a_real_model_s_predictions_don_t_depend_on_the_batch_size():
    model, variables = model_of(BoTNet)
    source = array_source(COUNT)
    logits = logits_of(model, variables, source)
    first, second = [evaluate(model, variables, source, size) for size in (3, 7)]
    np.testing.assert_array_equal(second.top_classes, first.top_classes)
    assert second.loss == pytest.approx(first.loss, rel=1e-6)
    np.testing.assert_array_equal(first.top_classes[:, 0], logits.argmax(axis=1))
    assert first.logits is None
    losses = -np.log(probabilities_of(logits)[np.arange(COUNT), source.labels])
    assert first.loss == pytest.approx(losses.mean(), rel=1e-4)


@pytest.mark.parametrize("batches", [0, 2, 3])
@pytest.mark.parametrize("devices", [None, 1])
def test_it_stops_between_batches_where_asked_to_and_counts_no_padding(batches, devices):
    told = []
    asked = {"on_batch": told.append, "should_stop": lambda: len(told) == batches}
    devices = devices and make_data_parallel(devices)
    found = evaluate(*model_of(), array_source(COUNT), 7, devices, **asked)
    assert told == [7, 14, 17][:batches]
    # After the last batch nothing is left to stop.
    assert (found is None) == (batches < 3)
    assert found is None or found.per_class_count.tolist() == [6, 6, 5]


def test_no_images_and_no_batch_size_are_refused():
    model, variables = model_of()
    with pytest.raises(ConfigError, match="batch_size is 0"):
        evaluate(model, variables, array_source(4), 0)
    with pytest.raises(DataError, match="no images to evaluate"):
        evaluate(model, variables, array_source(0), 4)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_bad_images_count_nowhere_and_are_listed(tmp_path, batch_size):
    """Each class has four images; one bee is cut short, and another is no image at all."""
    root = write_classes(tmp_path, dict.fromkeys(CLASSES, 4))
    (root / "bee" / "1.png").write_text("no image")
    bad = [str(root / "bee/1.png"), str(truncated_jpeg(root / "bee/x.jpg"))]
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
        Path(path).unlink()
    clean = evaluate(model, variables, load_folder_all(root), 100)
    np.testing.assert_array_equal(found.labels, clean.labels)
    np.testing.assert_array_equal(found.top_classes, clean.top_classes)
    np.testing.assert_allclose(found.losses, clean.losses, rtol=1e-5)
