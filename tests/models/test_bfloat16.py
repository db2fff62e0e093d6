"""A bfloat16 model: computes in bfloat16; what it stores and what it answers stay float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottleneck_transformer_flax.models.botnet import BoTNet
from reference.small_models import (
    SMALL_MODELS,
    all_outputs,
    grid_stride,
    small_variables,
)
from reference.variables import random_images

FLOAT32 = {jnp.dtype(jnp.float32)}


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


def in_bfloat16(name):
    return BoTNet(config=SMALL_MODELS[name].config.replace(dtype="bfloat16"))


@pytest.mark.parametrize("name", ["botnet50", "botnet_t3"])
def test_outputs_are_near_those_of_float32(name):
    size = (3 * grid_stride(name), 5 * grid_stride(name))
    variables = small_variables(name, *size)
    images = random_images(2, *size, 3)
    model = in_bfloat16(name)
    logits, features, attention = jax.jit(
        lambda v, x: (
            model.apply(v, x),
            model.apply(v, x, method="feature_maps"),
            model.apply(v, x, method="attention_maps"),
        )
    )(variables, images)
    exact_logits, exact_features, exact_attention = all_outputs(name)(variables, images)
    assert logits.dtype == jnp.float32
    assert dtypes(features) == {jnp.dtype(jnp.bfloat16)}
    assert dtypes(attention) == FLOAT32
    error = np.abs(np.asarray(logits - exact_logits)).max() / np.std(exact_logits)
    print(f"{name}: bfloat16 logits within {error:.3f} of a standard deviation")
    assert error < 0.1
    for stage, feature_map in features.items():
        exact = np.asarray(exact_features[stage])
        difference = np.abs(np.asarray(feature_map, np.float32) - exact)
        assert difference.max() < 0.05 * np.abs(exact).max(), stage
    for block, weights in attention.items():
        np.testing.assert_allclose(weights.sum(axis=(-2, -1)), 1, atol=1e-5)
        np.testing.assert_allclose(weights, exact_attention[block], atol=0.02)


def test_statistics_and_gradients_are_float32_in_training():
    name = "botnet_t3"
    size = (2 * grid_stride(name), 3 * grid_stride(name))
    model = in_bfloat16(name)
    variables = small_variables(name, *size)
    images = random_images(4, *size, 3)
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])

    def objective(params):
        logits, state = apply({"params": params, "batch_stats": variables["batch_stats"]}, images)
        return jnp.sum(logits**2), (logits, state)

    gradient, (logits, state) = jax.eval_shape(
        jax.grad(objective, has_aux=True), variables["params"]
    )
    assert dtypes(gradient) == dtypes(state) == dtypes(logits) == FLOAT32

    exact = functools.partial(SMALL_MODELS[name].apply, train=True, mutable=["batch_stats"])
    _, near = jax.jit(apply)(variables, images)
    _, expected = jax.jit(exact)(variables, images)
    for mine, theirs in zip(jax.tree.leaves(near), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0.02, atol=0.02)


def test_bfloat16_images_are_taken_as_they_are():
    name, size = "botnet_t3", (32, 32)
    variables = small_variables(name, *size)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.bfloat16)
    for model in (SMALL_MODELS[name], in_bfloat16(name)):
        assert jax.eval_shape(model.apply, variables, images).dtype == jnp.float32
