"""The predictor is model.apply, softmax and a stable order; batches don't matter."""

import functools
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.inference.predictor import Predictor
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from reference.variables import random_variables
from training.tiny import CROPPED, SIZE, SMALL, LinearModel, colour_images

NAMES = tuple("abcdefg")
PREPROCESSING = CROPPED.replace(mean=(0.1, 0.2, 0.3), temperature=2.5)


def config_of(kind, **changes):
    """The linear model has no norms that could be folded."""
    return SMALL.replace(folded_batch_norm=kind is LinearModel, **changes)


def pretrained_of(kind=LinearModel):
    model = kind(config=config_of(kind, num_classes=7))
    variables = random_variables(abstract_variables(model, SIZE), seed=2)
    return Pretrained(model, variables, PREPROCESSING, NAMES)


def images_of(count):
    return [Image.fromarray(pixels) for pixels in colour_images(count, seed=9)]


def by_hand(pretrained, images, top_k):
    pixels = np.stack([np.asarray(image) for image in images])
    inputs = (pixels / 255 - [0.1, 0.2, 0.3]) / PREPROCESSING.std
    inputs = jnp.asarray(inputs, jnp.float32)
    logits = np.asarray(jax.jit(pretrained.model.apply)(pretrained.variables, inputs))
    logits = logits.astype(np.float64) / 2.5
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return [
        sorted(zip(NAMES, row.tolist(), strict=True), key=lambda pair: -pair[1])[:top_k]
        for row in probabilities
    ]


def rankings_of(predictions):
    assert all(prediction.error is None for prediction in predictions)
    return [list(prediction.ranking) for prediction in predictions]


def assert_same_rankings(ours, oracle):
    assert len(ours) == len(oracle)
    for mine, his in zip(ours, oracle, strict=True):
        assert [name for name, _ in mine] == [name for name, _ in his]
        np.testing.assert_allclose([p for _, p in mine], [p for _, p in his], rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "batch_size"),
    [(BoTNet, 3), (LinearModel, 1), (LinearModel, 2), (LinearModel, 5), (LinearModel, 64)],
)
def test_it_is_the_model_applied_by_hand_whatever_the_batch_size(kind, batch_size):
    pretrained, images = pretrained_of(kind), images_of(5)
    rankings = rankings_of(Predictor(pretrained, batch_size=batch_size, top_k=7)(images))
    assert_same_rankings(rankings, by_hand(pretrained, images, 7))
    assert len({tuple(name for name, _ in ranking) for ranking in rankings}) > 1
    for ranking in rankings:
        assert sum(value for _, value in ranking) == pytest.approx(1, abs=1e-6)
        assert all(type(value) is float for _, value in ranking)


def test_ties_keep_the_order_of_the_classes():
    # More classes than an unstable sort leaves in order by chance, of two probabilities.
    names = tuple(f"class {number}" for number in range(100))
    model = LinearModel(config=config_of(LinearModel, num_classes=100))
    variables = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_variables(model, SIZE)
    )
    variables["params"]["bias"] = jnp.arange(100.0) % 2 * 2.5
    predictor = Predictor(Pretrained(model, variables, PREPROCESSING, names), top_k=100)
    ranking = rankings_of(predictor(images_of(1)))
    assert [name for name, _ in ranking[0]] == [*names[1::2], *names[0::2]]
    likely, unlikely = np.e / (50 * np.e + 50), 1 / (50 * np.e + 50)
    values = [value for _, value in ranking[0]]
    assert values == pytest.approx([likely] * 50 + [unlikely] * 50, rel=1e-5)


@pytest.mark.parametrize(("top_k", "given"), [(1, 1), (7, 7), (1000, 7)])
def test_top_k_is_at_most_all_classes_and_no_image_is_no_ranking(top_k, given):
    predictor = Predictor(pretrained_of(), top_k=top_k)
    assert list(map(len, rankings_of(predictor(images_of(1))))) == [given]
    assert predictor([]) == []


def test_any_size_of_image_is_resized():
    images = [Image.new("RGB", size, "red") for size in ((16, 16), (300, 20), (1, 1))]
    rankings = rankings_of(Predictor(pretrained_of())(images))
    assert_same_rankings(rankings[1:], [rankings[0]] * 2)


def test_an_image_may_come_in_any_form(tmp_path):
    (image,) = images_of(1)
    image.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    forms = [image, np.asarray(image), content, io.BytesIO(content), str(tmp_path / "a.png")]
    rankings = rankings_of(Predictor(pretrained_of(), batch_size=2)([*forms, tmp_path / "a.png"]))
    assert_same_rankings(rankings[1:], [rankings[0]] * 5)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"no image", "the given image: cannot be read as an image"),
        ("nowhere.png", "nowhere.png: cannot be read as an image: no such file"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\); expected uint8 and \(height, width, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "an array of float32"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (None, "an image is a NoneType; expected a path"),
    ],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_a_bad_image_is_an_error_in_its_place_and_the_others_are_classified(bad, told):
    good = images_of(2)
    for batch_size in (1, 2, 32):
        found = Predictor(pretrained_of(), batch_size=batch_size)([good[0], bad, good[1], bad])
        assert [len(prediction.ranking) for prediction in found] == [5, 0, 5, 0]
        assert re.search(told, str(found[1].error))
        assert_same_rankings(rankings_of(found[::2]), rankings_of(Predictor(pretrained_of())(good)))


def test_a_stream_reads_only_a_few_batches_ahead():
    taken = 0

    def endless():
        nonlocal taken
        (image,) = images_of(1)
        while True:
            taken += 1
            yield image

    stream = Predictor(pretrained_of(), batch_size=4).stream(endless())
    for count in range(1, 10):
        assert len(next(stream).ranking) == 5
        assert taken <= count + 3 * 4 + 1
    stream.close()


@pytest.mark.parametrize("batch_size", [2, 8])
def test_features_are_the_models_own(batch_size):
    pretrained, images = pretrained_of(BoTNet), images_of(3)
    inputs = PREPROCESSING.normalize(np.stack([np.asarray(image) for image in images]))
    apply = functools.partial(pretrained.model.apply, method="pooled_features")
    expected = jax.jit(apply)(pretrained.variables, inputs)
    predictor = Predictor(pretrained, batch_size=batch_size)
    first, bad, *others = predictor.features([images[0], b"", *images[1:]])
    assert bad.features is None
    assert bad.error is not None
    found = np.stack([one.features for one in (first, *others)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"top_k": 0}])
def test_wrong_options_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Predictor(pretrained_of(), **options)


def test_few_images_are_not_computed_as_many():
    images, predictor = images_of(7), Predictor(pretrained_of(), batch_size=6)
    assert [predictor._size_for(count) for count in (1, 3, 2, 5, 6, 4, 1)] == [1, 4, 4, 6, 6, 4, 1]
    assert_same_rankings(rankings_of(predictor(images)), by_hand(pretrained_of(), images, 5))
