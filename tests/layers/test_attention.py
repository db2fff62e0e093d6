"""The attention layer against the loop oracle: values, gradients, grids and half precision."""

import functools

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
from reference import attention as oracle
from reference.attention import random_arguments
from reference.variables import random_images, random_variables

H, W, HEADS, HEAD_DIM, CHANNELS = 3, 4, 2, 6, 5


def layer_and_parameters(h, w, heads, head_dim, channels=CHANNELS, **settings):
    layer = RelativeSelfAttention(num_heads=heads, head_dim=head_dim, **settings)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, h, w, channels)))
    return layer, random_variables(shapes["params"], seed=h * 10 + w)


LAYER, PARAMETERS = layer_and_parameters(H, W, HEADS, HEAD_DIM)


@functools.partial(jax.jit, static_argnums=0)
def outputs(layer, parameters, x):
    """(what the layer gives, its attention maps)."""
    variables = {"params": parameters}
    return layer.apply(variables, x), layer.apply(variables, x, method="maps")


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
    output, maps = outputs(layer, parameters, x)
    assert {each.dtype for each in maps} == {jnp.dtype("float32")}
    np.testing.assert_allclose(maps.weights.sum(axis=(-2, -1)), 1, atol=1e-6)
    for found, expected in zip(maps, oracle.self_attention_maps(x, parameters), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
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
        function, reference, arrays = reference_attention, oracle.attend, random_arguments(2, 3)
    else:
        layer, parameters = layer_and_parameters(2, 2, 2, 2, channels=3)
        leaves, tree = jax.tree.flatten(parameters)
        function = lambda x, *leaves: layer.apply({"params": tree.unflatten(leaves)}, x)  # noqa: E731
        reference = lambda x, *leaves: oracle.self_attention(x, tree.unflatten(leaves))  # noqa: E731
        arrays = [random_images(1, 2, 2, 3), *leaves]
    probe = random_images(*reference(*arrays).shape, seed=9)

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


@pytest.mark.parametrize("grid", [(H, W + 1), (W, H)])
@pytest.mark.parametrize("method", ["__call__", "maps"])
def test_another_grid_than_the_variables_is_refused_with_both_and_the_remedy(grid, method):
    expected = rf"{grid[0]} × {grid[1]} positions.* {H} × {W}; .*resize_relative_positions"
    with pytest.raises(ConfigError, match=expected):
        LAYER.apply({"params": PARAMETERS}, jnp.zeros((1, *grid, CHANNELS)), method=method)


def test_bfloat16_logits_and_their_sums_are_not_rounded():
    """Position terms 256 … 264 plus content 1: bfloat16 holds every other or fourth sum."""
    w = 5
    query = jnp.broadcast_to(jnp.array([16.0, 1.0]), (1, 1, w, 1, 2)).astype(jnp.bfloat16)
    key = jnp.broadcast_to(jnp.array([0.0, 1.0]), query.shape).astype(jnp.bfloat16)
    offsets = jnp.arange(1.0 - w, float(w))
    width_table = jnp.stack([jnp.full(2 * w - 1, 16.0), offsets], axis=-1).astype(jnp.bfloat16)
    tables = (jnp.zeros((1, 2), jnp.bfloat16), width_table)
    weights = attention_weights(query, key, *tables)
    assert weights.dtype == jnp.float32
    expected = oracle.maps(query, key, *tables).weights.reshape(w, w)
    np.testing.assert_allclose(weights[0, 0], expected, atol=1e-6)
    key = jnp.stack([jnp.full(w, 16.0), jnp.arange(float(w))], axis=-1).reshape(query.shape)
    weights = attention_weights(query, key.astype(jnp.bfloat16), *map(jnp.zeros_like, tables))
    expected = np.exp(np.arange(w)) / np.exp(np.arange(w)).sum()
    np.testing.assert_allclose(weights[0, 0], np.tile(expected, (w, 1)), atol=1e-6)


def test_the_layer_in_bfloat16_is_near_float32():
    half = RelativeSelfAttention(num_heads=HEADS, head_dim=HEAD_DIM, dtype=jnp.bfloat16)
    x = random_images(2, H, W, CHANNELS)
    made = jax.eval_shape(half.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
    output, maps = outputs(half, PARAMETERS, x.astype(jnp.bfloat16))
    exact_output, exact_maps = outputs(LAYER, PARAMETERS, x)
    assert (output.dtype, maps.weights.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(maps.weights.sum(axis=(-2, -1)), 1, atol=1e-6)
    np.testing.assert_allclose(maps.weights, exact_maps.weights, rtol=0, atol=0.03)
    np.testing.assert_allclose(output.astype(jnp.float32), exact_output, rtol=0, atol=0.05)
