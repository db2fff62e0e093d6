"""Explanations are those of slow loops over what the model gives."""

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.decoding import DecodedImage
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.inference.explain import attention_rollout, explain
from bottleneck_transformer_flax.preprocessing import Preprocessing
from reference.small_models import SMALL_MODELS, all_outputs, small_size, small_variables

NAME = "botnet_t3"
CLASSES = tuple("abcde")


def pretrained_of(name=NAME):
    preprocessing = Preprocessing(size=small_size(name), temperature=1.7)
    return Pretrained(SMALL_MODELS[name], small_variables(name), preprocessing, CLASSES)


def photo(size=(170, 140)):
    random = np.random.default_rng(5)
    small = Image.fromarray(random.integers(256, size=(9, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("name", [NAME, "botnet26t_256"])
def test_it_is_what_the_model_gives(name):
    pretrained, image = pretrained_of(name), photo()
    pixels = EvaluationTransform(pretrained.preprocessing)(DecodedImage(image))
    inputs = pretrained.preprocessing.normalize(pixels[None])
    outputs = all_outputs(pretrained.model)(pretrained.variables, inputs)
    found = explain(pretrained, image, positions=[(0, 1), (1, 2)])
    block = [key for key in outputs.attention_maps if key.count("/") == 1][-1]
    assert found.block == block
    probabilities = softmax(np.asarray(outputs.logits[0], np.float64) / 1.7)
    assert [name for name, _ in found.ranking] == [CLASSES[i] for i in np.argsort(-probabilities)]
    np.testing.assert_allclose(
        [value for _, value in found.ranking], np.sort(probabilities)[::-1], rtol=1e-4
    )
    for each, (row, column) in zip(found.heads, [(0, 1), (1, 2)], strict=True):
        assert each.position == (row, column)
        weights = outputs.attention_maps[block][0, :, row, column]
        np.testing.assert_allclose(each.weights, weights, atol=1e-6)
        for kind, maps in (("content", each.content), ("position", each.relative)):
            for head, logits in enumerate(outputs.attention_maps[f"{block}/{kind}_logits"][0]):
                np.testing.assert_allclose(maps[head], softmax(logits[row, column]), atol=1e-5)
    parameters = pretrained.variables["params"]
    for part in block.split("/"):
        parameters = parameters[part]
    for table, key in zip(found.tables, ("relative_height", "relative_width"), strict=True):
        np.testing.assert_array_equal(table, parameters["attention"][key])


def test_grad_cam_of_a_mean_and_a_matrix_is_the_sum_by_the_class_s_weights():
    """Without a convolution before the head, the gradient of a logit is its column by area."""
    pretrained, image = pretrained_of(), photo()
    pixels = EvaluationTransform(pretrained.preprocessing)(DecodedImage(image))
    outputs = all_outputs(pretrained.model)(
        pretrained.variables, pretrained.preprocessing.normalize(pixels[None])
    )
    kernel = np.asarray(pretrained.variables["params"]["head"]["kernel"])
    features = np.asarray(outputs.feature_maps["c5"][0])
    column = kernel[:, int(np.argmax(outputs.logits[0]))]
    expected = np.maximum(0, features @ column) / features[..., 0].size
    found = explain(pretrained, image)
    np.testing.assert_allclose(found.grad_cam, expected, atol=1e-5 * expected.max())
    # The default position is where it is largest.
    row, column = np.unravel_index(np.argmax(expected), expected.shape)
    grid = found.heads[0].weights.shape[-2:]
    assert found.heads[0].position == (
        (2 * row + 1) * grid[0] // (2 * expected.shape[0]),
        (2 * column + 1) * grid[1] // (2 * expected.shape[1]),
    )


def test_a_rollout_is_that_of_a_loop_also_where_the_grid_shrinks():
    random = np.random.default_rng(3)

    def weights(heads, h, w):
        logits = random.normal(size=(heads, h, w, h * w))
        maps = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        return maps.reshape(heads, h, w, h, w)

    first, second, third = weights(2, 4, 4), weights(3, 4, 4), weights(2, 2, 2)
    positions = [(i, j) for i in range(4) for j in range(4)]
    rolled = {(q, k): float(q == k) for q in positions for k in positions}
    for each in (first, second):
        mean = each.mean(axis=0)
        rolled = {
            (q, k): (rolled[q, k] + sum(mean[(*q, *m)] * rolled[m, k] for m in positions)) / 2
            for q in positions
            for k in positions
        }
    small = [(i, j) for i in range(2) for j in range(2)]
    pooled = {
        (q, k): sum(rolled[m, k] for m in positions if (m[0] // 2, m[1] // 2) == q) / 4
        for q in small
        for k in positions
    }
    mean = third.mean(axis=0)
    last = {
        (q, k): (pooled[q, k] + sum(mean[(*q, *m)] * pooled[m, k] for m in small)) / 2
        for q in small
        for k in positions
    }
    expected = [[sum(last[q, (i, j)] for q in small) / 4 for j in range(4)] for i in range(4)]
    found = attention_rollout([first, second, third])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.sum() == pytest.approx(1)


def test_the_photo_is_what_the_model_sees_in_more_pixels():
    pretrained = pretrained_of()
    height, width = pretrained.preprocessing.size
    large, small = photo((1700, 1400)), photo((40, 30))
    seen = explain(pretrained, large).photo
    assert seen.height // height == seen.width // width == -(-512 // min(height, width))
    assert (explain(pretrained, small).photo.size) == (width, height)
    pixels = EvaluationTransform(pretrained.preprocessing)(DecodedImage(large))
    again = seen.resize((width, height), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(again, int) - pixels).mean() < 3


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        (NAME, {"block": "c4/block_1"}, r"block is 'c4/block_1'; expected one of c5/block_1"),
        (NAME, {"positions": [(0, 99)]}, r"at is \(0, 99\), but the grid of c5/block_2 has"),
        ("resnet50", {}, "the model has no attention to look at"),
    ],
)
def test_what_a_model_does_not_have_is_told(name, options, told):
    with pytest.raises(ConfigError, match=told):
        explain(pretrained_of(name), photo(), **options)
