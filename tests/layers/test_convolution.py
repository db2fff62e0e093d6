"""Convolutions, pools and channel attention against the loop oracle and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from jax.export import symbolic_shape

from bottleneck_transformer_flax.layers.channel_attention import (
    EfficientChannelAttention,
    SqueezeExcite,
    channel_means,
)
from bottleneck_transformer_flax.layers.conv_algorithms import (
    choose_algorithm,
    im2col,
    patches,
    pointwise,
    winograd,
    xla_convolution,
)
from bottleneck_transformer_flax.layers.convolution import (
    ConvolutionNorm,
    average_pool,
    stem_max_pool,
)
from reference import convolution as oracle
from reference.variables import random_images, random_variables

SIZES = [(1, 1), (1, 6), (5, 4), (7, 9)]


def made(layer, x, **arguments):
    """(variables, a compiled function of variables and input)."""
    shapes = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, **arguments), x)
    return random_variables(shapes), jax.jit(lambda v, x: layer.apply(v, x, **arguments))


def to_torch(x, *axes):
    """In float64, with the axes in torch's order."""
    array = np.array(x, np.float64).transpose(axes or (0, 3, 1, 2))
    return torch.from_numpy(array).requires_grad_()


def from_torch(x, *axes):
    return x.detach().numpy().transpose(axes or (0, 2, 3, 1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel_size", "groups"), [(1, 1), (3, 1), (3, 2), (7, 1)])
@pytest.mark.parametrize(("h", "w"), [(1, 6), (7, 9)])
def test_convolution_norm_is_the_oracle(h, w, kernel_size, groups, stride):
    layer = ConvolutionNorm(6, kernel_size, stride, groups, activation=nn.silu)
    x = random_images(2, h, w, 4)
    variables, apply = made(layer, x, train=False)
    output = apply(variables, x)
    params = variables["params"]
    expected = oracle.convolve(x, params["convolution"]["kernel"], stride)
    expected = oracle.batch_norm(expected, params["norm"], variables["batch_stats"]["norm"])
    assert output.shape == (2, -(-h // stride), -(-w // stride), 6)
    np.testing.assert_allclose(output, oracle.ACTIVATIONS["silu"](expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (5, 8), (7, 2), (11, 3)])
@pytest.mark.parametrize(
    ("algorithm", "size", "stride"),
    [(winograd, 3, 1), (im2col, 3, 2), (pointwise, 1, 2), (patches, 2, 2)],
)
def test_every_algorithm_and_its_gradients_are_torchs(algorithm, size, stride, h, w):
    x = random_images(2, h, w, 6)
    kernel = random_images(size, size, 6, 5, seed=3) / (size * 6**0.5)
    inputs, weights = to_torch(x), to_torch(kernel, 3, 2, 0, 1)
    padded = torch.nn.functional.pad(inputs, ((size - 1) // 2, size // 2) * 2)
    theirs = torch.nn.functional.conv2d(padded, weights, stride=stride)
    gradient = random_images(*from_torch(theirs).shape, seed=4)
    theirs.backward(to_torch(gradient))

    @jax.jit
    def both(x, kernel, gradient):
        output, pull = jax.vjp(lambda x, k: algorithm(x, k, (stride, stride)), x, kernel)
        return output, *pull(gradient)

    output, of_x, of_kernel = both(x, kernel, gradient)
    np.testing.assert_allclose(output, from_torch(theirs), rtol=0, atol=2e-6)
    np.testing.assert_allclose(of_x, from_torch(inputs.grad), rtol=0, atol=2e-6)
    expected = from_torch(weights.grad, 2, 3, 1, 0)
    np.testing.assert_allclose(of_kernel, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, winograd),
        ({"stride": 2}, im2col),
        ({"kernel_size": 1}, pointwise),
        ({"kernel_size": 1, "stride": 2}, pointwise),
        ({"kernel_size": 2, "stride": 2}, patches),
        ({"kernel_size": 2, "stride": 2, "groups": 2}, xla_convolution),
        ({"kernel_size": 7, "stride": 2}, xla_convolution),
        ({"kernel_size": 1, "groups": 2}, xla_convolution),
        ({"groups": 2}, xla_convolution),
        ({"stride": 2, "groups": 2}, xla_convolution),
        ({"dtype": jnp.bfloat16}, xla_convolution),
        # Too few positions to outweigh the transform of the kernel, and too few channels.
        ({"shape": (1, 7, 9, 64)}, xla_convolution),
        ({"shape": (1, 8, 8, 63)}, xla_convolution),
        ({"shape": (1, 8, 8, 63), "stride": 2}, xla_convolution),
    ],
)
def test_the_choice_is_by_static_shapes_platform_and_execution(monkeypatch, changes, taken):
    layer = {"shape": (1, 8, 8, 64), "kernel_size": 3, "stride": 1, "groups": 1} | changes
    layer = {"dtype": jnp.float32, "algorithm": "auto"} | layer
    plain = pointwise if taken is pointwise else xla_convolution
    assert choose_algorithm(**layer) is taken
    assert choose_algorithm(**layer | {"algorithm": "plain"}) is plain
    (batch,) = symbolic_shape("b")
    symbolic = {"shape": (batch, *layer["shape"][1:])}
    assert choose_algorithm(**layer | symbolic) is xla_convolution
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose_algorithm(**layer) is plain


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_the_stem_max_pool_and_its_gradient_are_torchs(h, w):
    """With mixed values, negative values only, and ties: the first of them gets the gradient."""
    x = random_images(2, h, w, 3)
    x = jnp.concatenate([x, x - 10, jnp.maximum(jnp.round(x), 0)])
    gradient = random_images(6, -(-h // 2), -(-w // 2), 3, seed=2)

    @jax.jit
    def both(x, gradient):
        output, pull = jax.vjp(stem_max_pool, x)
        return output, *pull(gradient)

    output, of_x = both(x, gradient)
    their_x = to_torch(x)
    theirs = torch.nn.functional.max_pool2d(their_x, 3, stride=2, padding=1)
    np.testing.assert_array_equal(output, from_torch(theirs).astype(np.float32))
    theirs.backward(to_torch(gradient))
    np.testing.assert_allclose(of_x, from_torch(their_x.grad), rtol=0, atol=1e-6)


def test_the_stem_max_pool_lets_no_nan_disappear():
    pool = jax.jit(stem_max_pool)
    for position in np.ndindex(3, 3):
        x = jnp.zeros((1, 5, 5, 1)).at[(0, *position, 0)].set(jnp.nan)
        assert np.isnan(pool(x)[0, position[0] // 2, position[1] // 2, 0])


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_the_average_pool_is_torchs_and_keeps_a_constant_at_odd_borders(h, w):
    x = random_images(2, h, w, 3)
    pool = jax.jit(lambda x: average_pool(x, 2))
    output = pool(x)
    theirs = torch.nn.functional.avg_pool2d(to_torch(x), 2, ceil_mode=True, count_include_pad=False)
    np.testing.assert_allclose(output, from_torch(theirs), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(pool(jnp.ones_like(x)), np.ones(output.shape))


@pytest.mark.parametrize(
    ("channels", "ratio", "divisor", "hidden"),
    [(32, 1 / 16, 1, 2), (8, 1 / 16, 1, 1), (12, 0.25, 1, 3), (4, 1.0, 1, 4), (48, 0.25, 8, 16)],
)
def test_squeeze_excite_is_the_oracle(channels, ratio, divisor, hidden):
    layer = SqueezeExcite(ratio=ratio, activation=nn.silu, divisor=divisor)
    x = random_images(3, 4, 5, channels)
    variables, apply = made(layer, x, means=channel_means(x))
    assert variables["params"]["reduce"]["kernel"].shape == (channels, hidden)
    expected = oracle.squeeze_excite(x, variables["params"], "silu")
    output = apply(variables, x)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("channels", "size"), [(2, 3), (64, 3), (128, 5), (256, 5)])
def test_efficient_channel_attention_is_the_oracle(channels, size):
    x = random_images(3, 2, 3, channels)
    layer = EfficientChannelAttention()
    variables, apply = made(layer, x, means=channel_means(x))
    assert variables["params"]["neighbours"]["kernel"].shape == (size, 1, 1)
    expected = oracle.efficient_channel_attention(x, variables["params"])
    output = apply(variables, x)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


def test_bfloat16_layers_give_bfloat16_near_float32():
    x = random_images(2, 7, 6, 8)
    half = x.astype(jnp.bfloat16)
    for layer, arguments in (
        (ConvolutionNorm(8, kernel_size=3, stride=2), {"train": False}),
        (SqueezeExcite(ratio=0.5, activation=nn.silu), {"means": channel_means(half)}),
        (EfficientChannelAttention(), {"means": channel_means(half)}),
    ):
        variables, apply = made(layer, x, **arguments)
        _, rounded = made(layer.clone(dtype=jnp.bfloat16), half, **arguments)
        output, expected = rounded(variables, half), apply(variables, x)
        assert output.dtype == jnp.bfloat16
        np.testing.assert_allclose(output.astype(jnp.float32), expected, rtol=0, atol=0.05)
    for pooled in (stem_max_pool(half), average_pool(half, 2)):
        assert pooled.dtype == jnp.bfloat16
        assert np.isfinite(np.asarray(pooled, np.float32)).all()


def test_channel_means_are_float32_under_bfloat16():
    """1,024 positions of 1 + 1/128: their bfloat16 running sum would stall at 256."""
    means = channel_means(jnp.full((1, 32, 32, 1), 1.0078125, jnp.bfloat16))
    assert means.dtype == jnp.float32
    np.testing.assert_allclose(means, 1.0078125, rtol=1e-6)
