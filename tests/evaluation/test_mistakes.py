"""Mistakes are those of NumPy, in its order, whatever the batches."""

import jax
import numpy as np
import pytest

from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.datasets import load_folder_all
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.evaluation.mistakes import find_mistakes
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
    truncated_jpeg,
    write_classes,
)

COUNT = 17


@pytest.fixture(scope="module")
def network():
    model = LinearModel(config=SMALL)
    return model, random_variables(abstract_variables(model, SIZE), seed=0)


def find(network, source, count=100, batch_size=7, skip=False, **options):
    bad_images = BadImages(skip=skip)
    return find_mistakes(
        *network,
        CROPPED,
        source,
        count=count,
        batch_size=batch_size,
        bad_images=bad_images,
        **options,
    )


def by_numpy(network, images, labels):
    """All mistakes, one image at a time, and the confusion matrix."""
    model, variables = network
    logits = np.asarray(jax.jit(model.apply)(variables, CROPPED.normalize(images)), np.float64)
    confusion, mistakes = np.zeros((3, 3), int), []
    for index, (row, label) in enumerate(zip(logits, labels, strict=True)):
        probabilities = np.exp(row) / np.exp(row).sum()
        predicted = int(probabilities.argmax())
        confusion[label, predicted] += 1
        if predicted != label:
            mistakes.append((index, int(label), predicted, probabilities[predicted]))
    return sorted(mistakes, key=lambda mistake: -mistake[3]), confusion


@pytest.mark.parametrize("batch_size", [1, 5, 17, 100])
@pytest.mark.parametrize("count", [0, 1, 4, 100])
def test_the_surest_are_numpy_s(network, batch_size, count):
    source = array_source(COUNT)
    expected, confusion = by_numpy(network, source.images, source.labels)
    assert 4 < len(expected) < COUNT
    found = find(network, source, count, batch_size)
    np.testing.assert_array_equal(found.confusion, confusion)
    assert [mistake[:3] for mistake in found.most_confident] == [
        mistake[:3] for mistake in expected[:count]
    ]
    for mistake, (*_, probability) in zip(found.most_confident, expected, strict=False):
        assert mistake.probability == pytest.approx(probability, rel=1e-5)


def test_the_earlier_image_comes_first_among_equals(network):
    whole = array_source(COUNT)
    (index, label, predicted, _), *_ = by_numpy(network, whole.images, whole.labels)[0]
    images = np.stack([whole.images[index]] * 5)
    source = ArraySource(images, np.full(5, label, np.int32), CLASSES, "equal")
    found = find(network, source, count=3, batch_size=2).most_confident
    assert [mistake[:3] for mistake in found] == [(i, label, predicted) for i in range(3)]


def test_progress_is_told(network):
    told = []
    find(network, array_source(COUNT), on_batch=told.append)
    assert told == [7, 14, 17]


def test_bad_images_stop_or_count_nowhere(network, tmp_path):
    write_classes(tmp_path, {"ant": 2, "bee": 2, "cat": 2})
    bad = truncated_jpeg(tmp_path / "bee" / "1b.jpg")
    source = load_folder_all(tmp_path)
    with pytest.raises(DataError, match=bad.name):
        find(network, source)
    found = find(network, source, skip=True)
    assert found.confusion.sum(axis=1).tolist() == [2, 2, 2]
    assert found.most_confident
    assert str(bad) not in [source.describe(mistake.position) for mistake in found.most_confident]
