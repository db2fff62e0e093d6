"""What the paper's attention does whatever its numbers are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.layers.attention_backends.reference import (
    attention_weights,
    reference_attention,
)
from bottleneck_transformer_flax.layers.relative_position import (
    relative_embeddings,
    relative_logits,
)
from reference.variables import random_images, random_variables

H, W, HEADS, HEAD_DIM, CHANNELS = 3, 4, 2, 6, 5


@pytest.fixture(scope="module")
def layer():
    return RelativeSelfAttention(num_heads=HEADS, head_dim=HEAD_DIM)


@pytest.fixture(scope="module")
def parameters(layer):
    x = jnp.zeros((1, H, W, CHANNELS))
    return random_variables(jax.eval_shape(layer.init, jax.random.key(0), x)["params"])


@pytest.fixture(scope="module")
def x():
    return random_images(1, H, W, CHANNELS)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def arguments():
    grid = (1, H, W, HEADS, HEAD_DIM)
    tables = (draw(2 * H - 1, HEAD_DIM, seed=3), draw(2 * W - 1, HEAD_DIM, seed=4))
    return draw(*grid), draw(*grid, seed=1), draw(*grid, seed=2), *tables


def test_parameters_are_what_the_paper_names(parameters):
    assert jax.tree.map(jnp.shape, parameters) == {
        "query": {"kernel": (CHANNELS, HEADS, HEAD_DIM)},
        "key": {"kernel": (CHANNELS, HEADS, HEAD_DIM)},
        "value": {"kernel": (CHANNELS, HEADS, HEAD_DIM)},
        "relative_height": (2 * H - 1, HEAD_DIM),
        "relative_width": (2 * W - 1, HEAD_DIM),
    }


def test_weights_sum_to_one_over_all_keys_and_only_over_all(layer, parameters, x):
    weights = np.asarray(layer.apply({"params": parameters}, x, method="weights"))
    assert weights.dtype == np.float32
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    grid = weights.reshape(1, HEADS, H * W, H, W)
    for axis, size in ((-1, H), (-2, W)):
        sums = grid.sum(axis=axis)
        assert sums.max() < 0.999, "a softmax over one axis gives 1 in every row or column"
        np.testing.assert_allclose(sums.sum(axis=-1), 1, atol=1e-6)
        assert sums.shape[-1] == size


def test_every_output_position_depends_on_every_input_position(layer, parameters, x):
    jacobian = jax.jit(jax.jacrev(lambda x: layer.apply({"params": parameters}, x)[0]))(x)[
        :, :, :, 0
    ]
    for i, j, k, m in itertools.product(range(H), range(W), range(H), range(W)):
        block = np.asarray(jacobian[i, j, :, k, m])
        assert np.abs(block).max() > 1e-4, f"output ({i}, {j}) ignores input ({k}, {m})"


@pytest.mark.parametrize("position", list(itertools.product(range(H), range(W))))
def test_every_output_takes_its_weight_of_the_value_at_each_position(position):
    query, key, value, *tables = arguments()
    change = draw(HEADS, HEAD_DIM, seed=5)
    changed = value.at[0, *position].add(change)
    before = reference_attention(query, key, value, *tables)
    after = reference_attention(query, key, changed, *tables)
    weights = np.asarray(attention_weights(query, key, *tables))
    shares = weights[0, :, :, position[0] * W + position[1]].reshape(HEADS, H, W)
    assert shares.min() > 0
    expected = np.einsum("nhw,nd->hwnd", shares, change)
    np.testing.assert_allclose((after - before)[0], expected, atol=1e-5)


def test_without_queries_the_layer_gives_the_mean_value_everywhere(layer, parameters, x):
    """Through the whole layer: uniform weights, so values must come from *all* positions."""
    silent = parameters | {"query": {"kernel": jnp.zeros((CHANNELS, HEADS, HEAD_DIM))}}
    output = layer.apply({"params": silent}, x)
    values = np.einsum("hwc,cnd->hwnd", x[0], parameters["value"]["kernel"])
    mean = np.broadcast_to(values.mean(axis=(0, 1)).reshape(-1), output.shape[1:])
    np.testing.assert_allclose(output[0], mean, atol=1e-5)


def test_relative_logits_depend_on_the_offset_alone():
    query = jnp.broadcast_to(draw(HEADS, HEAD_DIM), (1, H, W, HEADS, HEAD_DIM))
    tables = arguments()[3:]
    logits = np.asarray(relative_logits(query, *tables)).reshape(HEADS, H, W, H, W)
    by_offset = {}
    for i, j, k, m in itertools.product(range(H), range(W), range(H), range(W)):
        by_offset.setdefault((k - i, m - j), []).append(logits[:, i, j, k, m])
    assert len(by_offset) == (2 * H - 1) * (2 * W - 1)
    for values in by_offset.values():
        np.testing.assert_allclose(values, np.broadcast_to(values[0], np.shape(values)), atol=1e-5)
    firsts = np.stack([values[0] for values in by_offset.values()])
    gaps = np.abs(firsts[:, None] - firsts[None, :]).max(axis=-1) + np.eye(len(firsts))
    assert gaps.min() > 1e-4, "two offsets share an embedding"


def test_tables_hold_key_minus_query_with_the_offset_zero_in_the_middle():
    length = 4
    table = jnp.arange(2 * length - 1, dtype=jnp.float32)[:, None] - (length - 1)
    embeddings = np.asarray(relative_embeddings(table, length))[..., 0]
    positions = np.arange(length)
    np.testing.assert_array_equal(embeddings, positions[None, :] - positions[:, None])


def test_the_first_table_is_for_rows_and_the_second_for_columns():
    query = jnp.ones((1, H, W, 1, 1))
    rows = jnp.arange(2 * H - 1, dtype=jnp.float32)[:, None] - (H - 1)
    logits = np.asarray(relative_logits(query, rows, jnp.zeros((2 * W - 1, 1))))
    logits = logits.reshape(H, W, H, W)
    for i, j, k, m in itertools.product(range(H), range(W), range(H), range(W)):
        assert logits[i, j, k, m] == k - i


def permuted_difference(layer, parameters, x):
    """How far shuffling positions, attending and shuffling back is from attending."""
    order = np.random.default_rng(0).permutation(H * W)
    shuffled = x.reshape(1, H * W, CHANNELS)[:, order].reshape(x.shape)
    output = np.asarray(layer.apply({"params": parameters}, x)).reshape(H * W, -1)
    of_shuffled = np.asarray(layer.apply({"params": parameters}, shuffled)).reshape(H * W, -1)
    return np.abs(of_shuffled - output[order]).max()


def test_the_order_of_positions_matters_through_the_tables_alone(layer, parameters, x):
    assert permuted_difference(layer, parameters, x) > 0.01
    blind = parameters | {
        name: jnp.zeros_like(parameters[name]) for name in ("relative_height", "relative_width")
    }
    assert permuted_difference(layer, blind, x) < 1e-5


def test_images_of_a_batch_do_not_see_each_other(layer, parameters):
    images = random_images(3, H, W, CHANNELS, seed=2)
    together = layer.apply({"params": parameters}, images)
    for index in range(3):
        alone = layer.apply({"params": parameters}, images[index : index + 1])
        np.testing.assert_allclose(together[index], alone[0], atol=1e-6)


def test_heads_do_not_see_each_other(layer, parameters, x):
    output = layer.apply({"params": parameters}, x)
    for head in range(HEADS):
        single = RelativeSelfAttention(num_heads=1, head_dim=HEAD_DIM)
        of_head = parameters | {
            name: {"kernel": parameters[name]["kernel"][:, head : head + 1]}
            for name in ("query", "key", "value")
        }
        channels = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        np.testing.assert_allclose(
            single.apply({"params": of_head}, x), output[..., channels], atol=1e-6
        )


@pytest.mark.parametrize("grid", [(H, W + 1), (W, H), (1, 1), (2 * H, W)])
@pytest.mark.parametrize("method", ["__call__", "weights"])
def test_another_grid_than_that_of_the_variables_is_an_error(layer, parameters, grid, method):
    images = jnp.zeros((1, *grid, CHANNELS))
    with pytest.raises(ConfigError) as error:
        layer.apply({"params": parameters}, images, method=method)
    message = str(error.value)
    assert f"{grid[0]} × {grid[1]}" in message
    assert f"{H} × {W}" in message
    assert "resize_relative_positions" in message
