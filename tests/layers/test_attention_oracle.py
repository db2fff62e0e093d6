"""The attention layer against the loop oracle: values, and gradients by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.layers.attention_backends.reference import (
    attention_weights,
    reference_attention,
)
from bottleneck_transformer_flax.layers.relative_position import relative_logits
from reference import attention as oracle
from reference.variables import random_images, random_variables

NAMES = ("query", "key", "value", "height_table", "width_table")


def layer_and_parameters(h, w, heads, head_dim, channels=5, **settings):
    layer = RelativeSelfAttention(num_heads=heads, head_dim=head_dim, **settings)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, h, w, channels)))
    return layer, random_variables(shapes["params"], seed=h * 10 + w)


def random_arguments(h, w, heads=2, head_dim=3, batch=2, seed=0):
    """Scaled queries, keys, values and both tables, sharp enough that the weights differ."""
    random = np.random.default_rng(seed)
    grid = (batch, h, w, heads, head_dim)
    shapes = (grid, grid, grid, (2 * h - 1, head_dim), (2 * w - 1, head_dim))
    return tuple(jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    h=st.integers(1, 7), w=st.integers(1, 7), heads=st.integers(1, 4), head_dim=st.integers(1, 9)
)
@example(h=1, w=1, heads=2, head_dim=4)
@example(h=1, w=6, heads=1, head_dim=3)
@example(h=7, w=1, heads=3, head_dim=8)
@example(h=5, w=7, heads=4, head_dim=8)
def test_layer_is_the_oracle(h, w, heads, head_dim):
    layer, parameters = layer_and_parameters(h, w, heads, head_dim)
    x = random_images(2, h, w, 5)
    output, weights = jax.jit(
        lambda p, x: (
            layer.apply({"params": p}, x),
            layer.apply({"params": p}, x, method="weights"),
        )
    )(parameters, x)
    assert output.shape == (2, h, w, heads * head_dim)
    assert weights.shape == (2, heads, h * w, h * w)
    expected = oracle.self_attention(x, parameters)
    expected_weights = oracle.self_attention_weights(x, parameters).reshape(weights.shape)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(weights, expected_weights, rtol=0, atol=1e-5)


def test_at_the_papers_sizes(record_property):
    """Four heads of 128 channels on a 7 × 6 grid, where sums are long."""
    layer, parameters = layer_and_parameters(7, 6, 4, 128, channels=64)
    x = random_images(1, 7, 6, 64)
    difference = np.abs(
        jax.jit(layer.apply)({"params": parameters}, x) - oracle.self_attention(x, parameters)
    ).max()
    record_property("largest_difference", float(difference))
    print(f"largest difference of the attention layer from the oracle: {difference:.2e}")
    assert difference <= 1e-5


@pytest.mark.parametrize(("h", "w"), [(3, 5), (4, 1)])
def test_functions_are_the_oracle(h, w):
    query, key, value, *tables = random_arguments(h, w)
    grid = (2, 2, h * w, h * w)
    np.testing.assert_allclose(
        relative_logits(query, *tables),
        oracle.position_logits(*oracle.as_float64(query, *tables)).reshape(grid),
        rtol=0,
        atol=1e-5,
    )
    weights = oracle.weights(query, key, *tables).reshape(grid)
    np.testing.assert_allclose(attention_weights(query, key, *tables), weights, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        reference_attention(query, key, value, *tables),
        oracle.attend(query, key, value, *tables),
        rtol=0,
        atol=1e-5,
    )


def central_differences(function, array, step=1e-5):
    """The gradient of a float64 scalar function, one coordinate at a time."""
    array = np.array(array, np.float64)
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        original = array[index]
        array[index] = original + step
        above = function(array)
        array[index] = original - step
        below = function(array)
        array[index] = original
        gradient[index] = (above - below) / (2 * step)
    return gradient


def test_gradients_of_the_function():
    """For q, k, v and both tables, against finite differences of the float64 oracle."""
    arguments = random_arguments(2, 3, batch=1)
    probe = np.random.default_rng(9).normal(size=arguments[2].shape)

    def objective(*arguments):
        return jnp.sum(reference_attention(*arguments) * probe.astype(np.float32))

    gradients = jax.jit(jax.grad(objective, argnums=range(5)))(*arguments)
    for index, (name, gradient) in enumerate(zip(NAMES, gradients, strict=True)):

        def value_at(array, index=index):
            changed = [*arguments[:index], array, *arguments[index + 1 :]]
            return np.sum(oracle.attend(*changed) * probe)

        expected = central_differences(value_at, arguments[index])
        assert np.abs(expected).max() > 0.01, name
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5, err_msg=name)


def test_gradients_of_the_layer():
    """For the input and every parameter, against finite differences of the float64 oracle."""
    layer, parameters = layer_and_parameters(2, 2, 2, 2, channels=3)
    x = random_images(1, 2, 2, 3)
    probe = np.random.default_rng(9).normal(size=(1, 2, 2, 4))

    def objective(parameters, x):
        return jnp.sum(layer.apply({"params": parameters}, x) * probe.astype(np.float32))

    by_parameter, by_input = jax.jit(jax.grad(objective, argnums=(0, 1)))(parameters, x)
    expected = central_differences(
        lambda x: np.sum(oracle.self_attention(x, parameters) * probe), x
    )
    np.testing.assert_allclose(by_input, expected, rtol=0, atol=1e-5)
    leaves, tree = jax.tree.flatten(parameters)
    for index, gradient in enumerate(jax.tree.leaves(by_parameter)):

        def value_at(array, index=index):
            changed = tree.unflatten([*leaves[:index], array, *leaves[index + 1 :]])
            return np.sum(oracle.self_attention(x, changed) * probe)

        expected = central_differences(value_at, leaves[index])
        assert np.abs(expected).max() > 0.001
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5)


def test_gradients_in_double_precision():
    """JAX's own gradients against JAX's own values, where no oracle stands between them."""
    with jax.enable_x64(True):
        arguments = [jnp.asarray(a, jnp.float64) for a in random_arguments(2, 3, batch=1)]
        probe = jnp.asarray(np.random.default_rng(9).normal(size=arguments[2].shape))
        direction = [
            jnp.asarray(np.random.default_rng(i).normal(size=a.shape))
            for i, a in enumerate(arguments)
        ]

        @jax.jit
        def along(t):
            moved = [a + t * d for a, d in zip(arguments, direction, strict=True)]
            return jnp.sum(reference_attention(*moved) * probe)

        slope = jax.grad(along)(jnp.float64(0))
        # The softmax is float32 even here, so the step cannot be smaller.
        step = 1e-2
        difference = (along(jnp.float64(step)) - along(jnp.float64(-step))) / (2 * step)
        assert abs(float(slope)) > 0.1
        assert float(slope) == pytest.approx(float(difference), rel=2e-3)
