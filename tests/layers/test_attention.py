"""The attention layer against the loop oracle, and what the paper's attention does by design."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
from reference import attention as oracle
from reference.variables import random_images, random_variables

H, W, HEADS, HEAD_DIM, CHANNELS = 3, 4, 2, 6, 5


def layer_and_parameters(h, w, heads, head_dim, channels=CHANNELS, **settings):
    layer = RelativeSelfAttention(num_heads=heads, head_dim=head_dim, **settings)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, h, w, channels)))
    return layer, random_variables(shapes["params"], seed=h * 10 + w)


LAYER, PARAMETERS = layer_and_parameters(H, W, HEADS, HEAD_DIM)


@jax.jit
def attend(parameters, x):
    return LAYER.apply({"params": parameters}, x)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def arguments(h=H, w=W, heads=HEADS, head_dim=HEAD_DIM):
    """Scaled queries, keys, values and both tables, sharp enough that the weights differ."""
    shapes = [(1, h, w, heads, head_dim)] * 3 + [(2 * h - 1, head_dim), (2 * w - 1, head_dim)]
    return [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    h=st.integers(1, 7), w=st.integers(1, 7), heads=st.integers(1, 4), head_dim=st.integers(1, 9)
)
@example(h=1, w=1, heads=2, head_dim=4)
@example(h=1, w=6, heads=1, head_dim=3)
@example(h=7, w=1, heads=3, head_dim=8)
@example(h=7, w=6, heads=4, head_dim=128)
def test_the_layer_is_the_oracle(h, w, heads, head_dim):
    channels = 64 if head_dim == 128 else CHANNELS
    layer, parameters = layer_and_parameters(h, w, heads, head_dim, channels)
    x = random_images(2, h, w, channels)
    output, weights = jax.jit(
        lambda v, x: (layer.apply(v, x), layer.apply(v, x, method="weights"))
    )({"params": parameters}, x)
    expected = oracle.self_attention_weights(x, parameters).reshape(2, heads, h * w, h * w)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-5)
    expected = oracle.self_attention(x, parameters)
    assert output.shape == (2, h, w, heads * head_dim)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


def central_differences(function, array, step=1e-5):
    """The gradient of a float64 scalar function, one coordinate at a time."""
    array = np.array(array, np.float64)
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        original = array[index]
        values = []
        for moved in (original + step, original - step):
            array[index] = moved
            values.append(function(array))
        array[index] = original
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("part", ["function", "layer"])
def test_gradients_are_the_oracles_finite_differences(part):
    """For queries, keys, values and tables; for the input and every parameter of the layer."""
    if part == "function":
        function, reference, arrays = reference_attention, oracle.attend, arguments(2, 3, 2, 3)
    else:
        layer, parameters = layer_and_parameters(2, 2, 2, 2, channels=3)
        leaves, tree = jax.tree.flatten(parameters)
        function = lambda x, *leaves: layer.apply({"params": tree.unflatten(leaves)}, x)  # noqa: E731
        reference = lambda x, *leaves: oracle.self_attention(x, tree.unflatten(leaves))  # noqa: E731
        arrays = [random_images(1, 2, 2, 3), *leaves]
    probe = draw(*reference(*arrays).shape, seed=9)

    def objective(*arrays):
        return jnp.sum(function(*arrays) * probe)

    gradients = jax.jit(jax.grad(objective, argnums=range(len(arrays))))(*arrays)
    for index, gradient in enumerate(gradients):

        def value_at(array, index=index):
            changed = [*arrays[:index], array, *arrays[index + 1 :]]
            return np.sum(reference(*changed) * np.asarray(probe, np.float64))

        expected = central_differences(value_at, arrays[index])
        assert np.abs(expected).max() > 0.001
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5)


def test_the_softmax_is_joint_over_all_keys():
    x = random_images(1, H, W, CHANNELS)
    weights = np.asarray(jax.jit(partial(LAYER.apply, method="weights"))({"params": PARAMETERS}, x))
    assert weights.dtype == np.float32
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    grid = weights.reshape(1, HEADS, H * W, H, W)
    assert max(grid.sum(axis=-1).max(), grid.sum(axis=-2).max()) < 0.999


def test_tables_hold_key_minus_query_first_for_rows_with_the_offset_zero_in_the_middle():
    table = jnp.arange(-3.0, 4)[:, None]
    positions = np.arange(4)
    expected = positions[None, :] - positions[:, None]
    np.testing.assert_array_equal(relative_embeddings(table, 4)[..., 0], expected)
    rows = jnp.arange(1.0 - H, H)[:, None]
    logits = relative_logits(jnp.ones((1, H, W, 1, 1)), rows, jnp.zeros((2 * W - 1, 1)))
    offsets = np.arange(H)[None, :] - np.arange(H)[:, None]
    expected = np.broadcast_to(offsets[:, None, :, None], (H, W, H, W))
    np.testing.assert_array_equal(logits.reshape(H, W, H, W), expected)


def test_the_order_of_positions_matters_through_the_tables_alone():
    order = np.random.default_rng(0).permutation(H * W)
    x = random_images(1, H, W, CHANNELS)
    shuffled = x.reshape(1, H * W, CHANNELS)[:, order].reshape(x.shape)

    def difference(parameters):
        of_shuffled, output = (
            np.asarray(attend(parameters, images)).reshape(H * W, -1) for images in (shuffled, x)
        )
        return np.abs(of_shuffled - output[order]).max()

    assert difference(PARAMETERS) > 0.01
    tables = ("relative_height", "relative_width")
    blind = PARAMETERS | {name: jnp.zeros_like(PARAMETERS[name]) for name in tables}
    assert difference(blind) < 1e-5


@pytest.mark.parametrize("grid", [(H, W + 1), (W, H), (1, 1)])
@pytest.mark.parametrize("method", ["__call__", "weights"])
def test_another_grid_than_the_variables_is_refused_with_both_and_the_remedy(grid, method):
    expected = rf"{grid[0]} × {grid[1]} positions.* {H} × {W}; .*resize_relative_positions"
    with pytest.raises(ConfigError, match=expected):
        LAYER.apply({"params": PARAMETERS}, jnp.zeros((1, *grid, CHANNELS)), method=method)


def test_bfloat16_logits_and_their_sums_are_not_rounded():
    """Position terms 256 … 264 plus content 1: bfloat16 holds every other or fourth sum."""
    w = 5
    query = jnp.broadcast_to(jnp.array([16.0, 1.0]), (1, 1, w, 1, 2)).astype(jnp.bfloat16)
    key = jnp.broadcast_to(jnp.array([0.0, 1.0]), query.shape).astype(jnp.bfloat16)
    offsets = jnp.arange(1.0 - w, w)
    width_table = jnp.stack([jnp.full(2 * w - 1, 16.0), offsets], axis=-1).astype(jnp.bfloat16)
    tables = (jnp.zeros((1, 2), jnp.bfloat16), width_table)
    weights = attention_weights(query, key, *tables)
    assert weights.dtype == jnp.float32
    expected = oracle.weights(query, key, *tables).reshape(w, w)
    np.testing.assert_allclose(weights[0, 0], expected, atol=1e-6)
    key = jnp.stack([jnp.full(w, 16.0), jnp.arange(w)], axis=-1).reshape(query.shape)
    weights = attention_weights(query, key.astype(jnp.bfloat16), *map(jnp.zeros_like, tables))
    expected = np.exp(np.arange(w)) / np.exp(np.arange(w)).sum()
    np.testing.assert_allclose(weights[0, 0], np.tile(expected, (w, 1)), atol=1e-6)


def test_the_layer_in_bfloat16_is_near_float32():
    half = RelativeSelfAttention(num_heads=HEADS, head_dim=HEAD_DIM, dtype=jnp.bfloat16)
    x = random_images(2, H, W, CHANNELS)
    made = jax.eval_shape(half.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
    variables = {"params": PARAMETERS}
    output, weights = jax.jit(lambda v, x: (half.apply(v, x), half.apply(v, x, method="weights")))(
        variables, x.astype(jnp.bfloat16)
    )
    assert (output.dtype, weights.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    exact = jax.jit(partial(LAYER.apply, method="weights"))(variables, x)
    np.testing.assert_allclose(weights, exact, rtol=0, atol=0.03)
    exact = attend(PARAMETERS, x)
    np.testing.assert_allclose(output.astype(jnp.float32), exact, rtol=0, atol=0.05)
