"""Batch norm against float64 NumPy, torch's gradients, and the variables of Flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bottleneck_transformer_flax.layers.batch_norm import BatchNorm
from reference import convolution as oracle
from reference.variables import random_images, random_variables

SIZES = [(1, 1, 2), (1, 2, 1), (3, 1, 4), (2, 5, 7), (4, 8, 8)]
CHANNELS = 6


def made(x, **settings):
    layer = BatchNorm(**settings)
    shapes = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, use_running_average=True), x)
    return layer, random_variables(shapes)


def images(b, h, w):
    """Of another mean and spread in each channel, neither far larger than the other."""
    shuffled = np.random.default_rng(0).permuted(
        np.tile(np.linspace(-1, 1, b * h * w)[:, None], CHANNELS), axis=0
    )
    channel = np.arange(1, CHANNELS + 1)
    return jnp.asarray((shuffled * channel + channel).reshape(b, h, w, CHANNELS), jnp.float32)


@pytest.mark.parametrize("size", SIZES)
def test_by_the_running_statistics(size):
    x = images(*size)
    layer, variables = made(x, epsilon=1e-3)
    output, moved = layer.apply(variables, x, use_running_average=True, mutable=["batch_stats"])
    expected = oracle.batch_norm(x, variables["params"], variables["batch_stats"], epsilon=1e-3)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("size", SIZES)
def test_by_the_batchs_statistics(size):
    x = images(*size)
    layer, variables = made(x, momentum=0.8)
    output, moved = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64)
    statistics = {"mean": exact.mean((0, 1, 2)), "var": exact.var((0, 1, 2))}
    expected = oracle.batch_norm(x, variables["params"], statistics)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    for name, of_batch in statistics.items():
        before = np.asarray(variables["batch_stats"][name], np.float64)
        after = 0.8 * before + 0.2 * of_batch
        np.testing.assert_allclose(moved["batch_stats"][name], after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "groups"), [((4, 3, 5), 2), ((6, 1, 2), 3), ((4, 2, 2), 4)])
def test_each_group_is_normalised_by_its_own_statistics(size, groups):
    x = images(*size)
    layer, variables = made(x, groups=groups)
    alone = BatchNorm()
    output, moved = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    parts = [
        alone.apply(variables, part, use_running_average=False, mutable=["batch_stats"])
        for part in jnp.split(x, groups)
    ]
    expected = np.concatenate([part for part, _ in parts])
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    for name, value in moved["batch_stats"].items():
        mean = np.mean([of_part["batch_stats"][name] for _, of_part in parts], axis=0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("size", [(2, 5, 7), (4, 8, 8), (3, 1, 4)])
def test_gradients_are_torchs(size, running):
    x = images(*size)
    layer, variables = made(x)
    gradient = random_images(*size, CHANNELS, seed=5)

    def loss(params, x):
        output, _ = layer.apply(
            {**variables, "params": params},
            x,
            use_running_average=running,
            mutable=["batch_stats"],
        )
        return jnp.sum(output * gradient)

    of_params, of_x = jax.grad(loss, argnums=(0, 1))(variables["params"], x)

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


def test_variables_are_those_of_flax():
    x = images(2, 3, 3)
    theirs = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), x)
    ours = BatchNorm().init(jax.random.key(0), x, use_running_average=False)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("running", [False, True])
def test_values_far_from_zero_lose_nothing_but_their_own_rounding(running):
    """A mean 4,000 times the spread; in training where the batch's variance is exact."""
    x = 4000 + jnp.asarray(random_images(2, 7, 7, CHANNELS), jnp.float32)
    layer, variables = made(x)
    exact = np.asarray(x, np.float64)
    if running:
        statistics = {"mean": exact.mean((0, 1, 2)), "var": exact.var((0, 1, 2))}
        variables = {**variables, "batch_stats": jax.tree.map(jnp.float32, statistics)}
        statistics = variables["batch_stats"]
    else:
        x = jnp.full_like(x, 4000)
        statistics = {"mean": np.full(CHANNELS, 4000.0), "var": np.zeros(CHANNELS)}
    output, _ = layer.apply(variables, x, use_running_average=running, mutable=["batch_stats"])
    expected = oracle.batch_norm(x, variables["params"], statistics)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


def test_parameters_and_statistics_are_float32_whatever_jax_prefers():
    x = images(2, 3, 3)
    with jax.enable_x64(True):
        variables = BatchNorm().init(jax.random.key(0), x, use_running_average=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_half_precision_is_of_the_output_alone():
    x = images(2, 5, 7).astype(jnp.bfloat16)
    layer, variables = made(x, dtype=jnp.bfloat16)
    output, moved = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    exact, in_float32 = BatchNorm().apply(
        variables, x.astype(jnp.float32), use_running_average=False, mutable=["batch_stats"]
    )
    assert output.dtype == jnp.bfloat16
    np.testing.assert_array_equal(output, exact.astype(jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, moved, in_float32)
