"""Convolutions, pools and the channel gate against the loop oracle and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from bottleneck_transformer_flax.layers.channel_attention import SqueezeExcite, channel_means
from bottleneck_transformer_flax.layers.convolution import (
    ConvolutionNorm,
    average_pool,
    stem_max_pool,
)
from reference import convolution as oracle
from reference.variables import random_images, random_variables

SIZES = [(1, 1), (2, 2), (1, 6), (5, 4), (7, 9), (8, 8)]


def made(layer, x, **arguments):
    shapes = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, **arguments), x)
    return random_variables(shapes)


def to_torch(x):
    return torch.from_numpy(np.array(x, np.float32).transpose(0, 3, 1, 2)).requires_grad_()


def from_torch(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_convolution_norm(h, w, kernel_size, stride):
    layer = ConvolutionNorm(6, kernel_size=kernel_size, stride=stride, activation=nn.silu)
    x = random_images(2, h, w, 3)
    variables = made(layer, x, train=False)
    output = layer.apply(variables, x, train=False)
    kernel = variables["params"]["convolution"]["kernel"]
    norm, statistics = variables["params"]["norm"], variables["batch_stats"]["norm"]

    expected = oracle.convolve(x, kernel, stride)
    expected = oracle.ACTIVATIONS["silu"](oracle.batch_norm(expected, norm, statistics))
    assert output.shape == (2, -(-h // stride), -(-w // stride), 6)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)

    theirs = torch.nn.functional.conv2d(
        to_torch(x),
        torch.from_numpy(np.array(kernel).transpose(3, 2, 0, 1)),
        stride=stride,
        padding=kernel_size // 2,
    )
    numbers = [np.array(a) for a in (statistics["mean"], statistics["var"], norm["scale"])]
    theirs = torch.nn.functional.batch_norm(
        theirs,
        *map(torch.from_numpy, (*numbers, np.array(norm["bias"]))),
        training=False,
        eps=1e-5,
    )
    theirs = from_torch(torch.nn.functional.silu(theirs))
    np.testing.assert_allclose(output, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_gradients_of_the_convolution_are_torchs(kernel_size, stride):
    layer = ConvolutionNorm(4, kernel_size=kernel_size, stride=stride, bn_epsilon=1e-5)
    x = random_images(2, 5, 6, 3)
    variables = made(layer, x, train=False)
    plain = {"mean": jnp.zeros(4), "var": jnp.ones(4) - 1e-5}
    variables["batch_stats"]["norm"] = plain
    variables["params"]["norm"] = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    probe = random_images(*layer.apply(variables, x, train=False).shape, seed=3)

    def objective(kernel, x):
        params = variables["params"] | {"convolution": {"kernel": kernel}}
        output = layer.apply({**variables, "params": params}, x, train=False)
        return jnp.sum(output * probe)

    kernel = variables["params"]["convolution"]["kernel"]
    by_kernel, by_input = jax.jit(jax.grad(objective, argnums=(0, 1)))(kernel, x)

    their_kernel = torch.from_numpy(np.array(kernel).transpose(3, 2, 0, 1)).requires_grad_()
    their_x = to_torch(x)
    output = torch.nn.functional.conv2d(
        their_x, their_kernel, stride=stride, padding=kernel_size // 2
    )
    (output * to_torch(probe).detach()).sum().backward()
    np.testing.assert_allclose(by_input, from_torch(their_x.grad), rtol=0, atol=1e-4)
    expected = their_kernel.grad.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(by_kernel, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("h", "w"), SIZES)
@pytest.mark.parametrize("shift", [0, -10], ids=["mixed", "all negative"])
def test_stem_max_pool(h, w, shift):
    x = random_images(2, h, w, 3) + shift
    output = stem_max_pool(x)
    assert output.shape == (2, -(-h // 2), -(-w // 2), 3)
    np.testing.assert_array_equal(output, oracle.max_pool(x).astype(np.float32))
    theirs = torch.nn.functional.max_pool2d(to_torch(x), 3, stride=2, padding=1)
    np.testing.assert_array_equal(output, from_torch(theirs))


def test_gradient_of_the_stem_max_pool_is_torchs():
    x = random_images(2, 7, 6, 3)
    probe = random_images(2, 4, 3, 3, seed=2)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(stem_max_pool(x) * probe)))(x)
    their_x = to_torch(x)
    output = torch.nn.functional.max_pool2d(their_x, 3, stride=2, padding=1)
    (output * to_torch(probe).detach()).sum().backward()
    np.testing.assert_allclose(gradient, from_torch(their_x.grad), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_of_tied_values_the_first_has_the_gradient_as_in_torch(h, w):
    """After a ReLU most windows of zeros tie."""
    x = jnp.maximum(jnp.round(random_images(2, h, w, 3)), 0)
    assert h * w < 4 or len(np.unique(x)) < x.size / 4
    probe = random_images(2, -(-h // 2), -(-w // 2), 3, seed=1)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(stem_max_pool(x) * probe)))(x)
    their_x = to_torch(x)
    theirs = torch.nn.functional.max_pool2d(their_x, 3, stride=2, padding=1)
    (theirs * to_torch(probe).detach()).sum().backward()
    np.testing.assert_allclose(gradient, from_torch(their_x.grad), rtol=0, atol=1e-6)


def test_the_stem_max_pool_lets_no_nan_disappear():
    for position in np.ndindex(3, 3):
        x = jnp.zeros((1, 5, 5, 1)).at[(0, *position, 0)].set(jnp.nan)
        assert np.isnan(stem_max_pool(x)[0, position[0] // 2, position[1] // 2, 0])


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_average_pool(h, w):
    x = random_images(2, h, w, 3)
    output = average_pool(x, 2)
    assert output.shape == (2, -(-h // 2), -(-w // 2), 3)
    np.testing.assert_allclose(output, oracle.average_pool(x), rtol=0, atol=1e-6)
    theirs = torch.nn.functional.avg_pool2d(to_torch(x), 2, ceil_mode=True, count_include_pad=False)
    np.testing.assert_allclose(output, from_torch(theirs), rtol=0, atol=1e-6)


def test_average_pool_keeps_a_constant_at_odd_borders():
    np.testing.assert_array_equal(average_pool(jnp.ones((1, 5, 3, 2)), 2), np.ones((1, 3, 2, 2)))


@pytest.mark.parametrize(
    ("channels", "ratio", "hidden"), [(32, 1 / 16, 2), (8, 1 / 16, 1), (12, 0.25, 3), (4, 1.0, 4)]
)
def test_squeeze_excite(channels, ratio, hidden):
    layer = SqueezeExcite(ratio=ratio, activation=nn.silu)
    x = random_images(3, 4, 5, channels)
    variables = made(layer, x, means=channel_means(x))
    assert variables["params"]["reduce"]["kernel"].shape == (channels, hidden)
    assert variables["params"]["expand"]["kernel"].shape == (hidden, channels)
    output = layer.apply(variables, x, channel_means(x))
    expected = oracle.squeeze_excite(x, variables["params"], "silu")
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


def test_bfloat16_layers_give_bfloat16_near_float32():
    x = random_images(2, 7, 6, 8)
    rounded = x.astype(jnp.bfloat16)
    convolution = ConvolutionNorm(8, kernel_size=3, stride=2, dtype=jnp.bfloat16)
    gate = SqueezeExcite(ratio=0.5, activation=nn.silu, dtype=jnp.bfloat16)
    for layer, exact, arguments in (
        (convolution, ConvolutionNorm(8, kernel_size=3, stride=2), {"train": False}),
        (gate, SqueezeExcite(ratio=0.5, activation=nn.silu), {"means": channel_means(rounded)}),
    ):
        variables = made(layer, x, **arguments)
        output = layer.apply(variables, rounded, **arguments)
        assert output.dtype == jnp.bfloat16
        expected = exact.apply(variables, x, **arguments)
        np.testing.assert_allclose(output.astype(jnp.float32), expected, rtol=0, atol=0.05)
    for pooled in (stem_max_pool(rounded), average_pool(rounded, 2)):
        assert pooled.dtype == jnp.bfloat16
        assert np.isfinite(np.asarray(pooled, np.float32)).all()


def test_channel_means_are_float32_under_bfloat16():
    """1,024 positions of 1 + 1/128: their bfloat16 running sum would stall at 256."""
    x = jnp.full((1, 32, 32, 1), 1.0078125, jnp.bfloat16)
    layer = SqueezeExcite(ratio=1.0, activation=lambda y: y, dtype=jnp.bfloat16)
    identity = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    output = layer.apply({"params": {"reduce": identity, "expand": identity}}, x, channel_means(x))
    expected = 1.0078125 / (1 + np.exp(-1.0078125))
    np.testing.assert_allclose(np.asarray(output, np.float32), expected, rtol=0.01)
