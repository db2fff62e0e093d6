"""Batch norm against float64 NumPy, torch's gradients, and the variables of Flax's own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bottleneck_transformer_flax.layers.batch_norm import BatchNorm
from reference import convolution as oracle
from reference.variables import random_images, random_variables

CHANNELS = 6


def made(x, **settings):
    """(variables, a function of variables, input and use_running_average)."""
    layer = BatchNorm(**settings)
    shapes = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, use_running_average=True), x)
    apply = functools.partial(layer.apply, mutable=["batch_stats"])
    return random_variables(shapes), jax.jit(apply, static_argnames="use_running_average")


def images(b, h, w):
    """With another mean and spread in each channel, neither far larger than the other."""
    values = np.tile(np.linspace(-1, 1, b * h * w)[:, None], CHANNELS)
    shuffled = np.random.default_rng(0).permuted(values, axis=0)
    channel = np.arange(1, CHANNELS + 1)
    return jnp.asarray((shuffled * channel + channel).reshape(b, h, w, CHANNELS), jnp.float32)


def statistics_of(x):
    exact = np.asarray(x, np.float64)
    return {"mean": exact.mean((0, 1, 2)), "var": exact.var((0, 1, 2))}


@pytest.mark.parametrize("size", [(1, 1, 2), (3, 1, 4), (4, 8, 8)])
def test_both_modes_are_the_oracles_and_the_batch_moves_the_running_statistics(size):
    x = images(*size)
    variables, apply = made(x, epsilon=1e-3, momentum=0.8)
    params, running = variables["params"], variables["batch_stats"]
    output, moved = apply(variables, x, use_running_average=True)
    expected = oracle.batch_norm(x, params, running, epsilon=1e-3)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], running)

    of_batch = statistics_of(x)
    output, moved = apply(variables, x, use_running_average=False)
    expected = oracle.batch_norm(x, params, of_batch, epsilon=1e-3)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    for name, value in of_batch.items():
        after = 0.8 * np.asarray(running[name], np.float64) + 0.2 * value
        np.testing.assert_allclose(moved["batch_stats"][name], after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "groups"), [((6, 1, 2), 3), ((4, 2, 2), 4)])
def test_each_group_is_normalised_by_its_own_statistics(size, groups):
    x = images(*size)
    variables, apply = made(x, groups=groups)
    _, alone = made(x)
    output, moved = apply(variables, x, use_running_average=False)
    parts = [alone(variables, part, use_running_average=False) for part in jnp.split(x, groups)]
    expected = np.concatenate([part for part, _ in parts])
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    for name, value in moved["batch_stats"].items():
        mean = np.mean([of_part["batch_stats"][name] for _, of_part in parts], axis=0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("size", [(2, 5, 7), (3, 1, 4)])
def test_gradients_are_torchs(size, running):
    x = images(*size)
    variables, apply = made(x)
    gradient = random_images(*size, CHANNELS, seed=5)

    def loss(params, x):
        output, _ = apply({**variables, "params": params}, x, use_running_average=running)
        return jnp.sum(output * gradient)

    of_params, of_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], x)

    def double(array, *, wanted=False):
        return torch.from_numpy(np.array(array, np.float64)).requires_grad_(wanted)

    theirs = double(np.moveaxis(np.asarray(x), -1, 1), wanted=True)
    scale, bias = (double(variables["params"][name], wanted=True) for name in ("scale", "bias"))
    mean, var = (double(variables["batch_stats"][name]) for name in ("mean", "var"))
    output = torch.nn.functional.batch_norm(
        theirs, mean, var, scale, bias, training=not running, eps=1e-5
    )
    output.backward(double(np.moveaxis(np.asarray(gradient), -1, 1)))
    expected = (theirs.grad.numpy().transpose(0, 2, 3, 1), scale.grad.numpy(), bias.grad.numpy())
    for ours, exact in zip((of_x, of_params["scale"], of_params["bias"]), expected, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5 * max(1, np.abs(exact).max()))


def test_variables_are_those_of_flax_in_float32_whatever_jax_prefers():
    x = images(2, 3, 3)
    theirs = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), x)
    with jax.enable_x64(True):
        ours = BatchNorm().init(jax.random.key(0), x, use_running_average=False)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("running", [False, True])
def test_values_far_from_zero_lose_nothing_but_their_own_rounding(running):
    """A mean 4,000 times the spread; in training where the batch's variance is exact."""
    x = 4000 + random_images(2, 7, 7, CHANNELS)
    x = x if running else jnp.full_like(x, 4000)
    variables, apply = made(x)
    of_batch = jax.tree.map(jnp.float32, statistics_of(x))
    output, _ = apply({**variables, "batch_stats": of_batch}, x, use_running_average=running)
    expected = oracle.batch_norm(x, variables["params"], of_batch)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


def test_half_precision_is_of_the_output_alone():
    x = images(2, 5, 7).astype(jnp.bfloat16)
    variables, apply = made(x, dtype=jnp.bfloat16)
    output, moved = apply(variables, x, use_running_average=False)
    _, exactly = made(x)
    exact, in_float32 = exactly(variables, x.astype(jnp.float32), use_running_average=False)
    assert output.dtype == jnp.bfloat16
    np.testing.assert_array_equal(output, exact.astype(jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, moved, in_float32)
