"""The convolutions for a CPU give what torch's gives, and are taken where they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.export import symbolic_shape

from bottleneck_transformer_flax.layers.conv_algorithms import (
    choose_algorithm,
    im2col,
    pointwise,
    winograd,
)
from reference.variables import random_images

side = st.integers(1, 11)
WAYS = [(winograd, 1), (im2col, 2)]


def torchs(x, kernel, stride):
    """The convolution in float64."""
    inputs = torch.from_numpy(np.array(x, np.float64).transpose(0, 3, 1, 2))
    weights = torch.from_numpy(np.array(kernel, np.float64).transpose(3, 2, 0, 1))
    padding = kernel.shape[0] // 2
    output = torch.nn.functional.conv2d(inputs, weights, stride=stride, padding=padding)
    return output.numpy().transpose(0, 2, 3, 1)


def assert_torchs(function, size, stride, x):
    kernel = random_images(size, size, x.shape[-1], 5, seed=3) / (size * x.shape[-1] ** 0.5)
    output = jax.jit(lambda x, k: function(x, k, (stride, stride), [(size // 2, size // 2)] * 2))(
        x, kernel
    )
    expected = torchs(x, kernel, stride)
    assert output.shape == expected.shape
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-6)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(h=side, w=side, channels=st.integers(1, 9))
@example(h=1, w=1, channels=1)
@example(h=1, w=8, channels=2)
@example(h=7, w=2, channels=3)
@pytest.mark.parametrize(("function", "stride"), WAYS)
def test_values(function, stride, h, w, channels):
    assert_torchs(function, 3, stride, random_images(2, h, w, channels))


@pytest.mark.parametrize(("function", "stride"), WAYS)
@pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 4), (5, 8), (7, 2)])
def test_gradients(function, stride, h, w):
    x, kernel = random_images(2, h, w, 6), random_images(3, 3, 6, 5, seed=3) / 7
    inputs = torch.from_numpy(np.array(x, np.float64).transpose(0, 3, 1, 2)).requires_grad_()
    weights = torch.from_numpy(np.array(kernel, np.float64).transpose(3, 2, 0, 1)).requires_grad_()
    output = torch.nn.functional.conv2d(inputs, weights, stride=stride, padding=1)
    gradient = random_images(2, *output.shape[2:], 5, seed=4)
    output.backward(torch.from_numpy(np.array(gradient, np.float64).transpose(0, 3, 1, 2)))

    _, pull = jax.vjp(lambda x, k: function(x, k, (stride, stride), [(1, 1)] * 2), x, kernel)
    of_x, of_kernel = pull(gradient)
    np.testing.assert_allclose(of_x, inputs.grad.numpy().transpose(0, 2, 3, 1), rtol=0, atol=2e-6)
    expected = weights.grad.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(of_kernel, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, winograd),
        ({"stride": 2}, im2col),
        ({"kernel_size": 1}, pointwise),
        ({"kernel_size": 1, "stride": 2}, pointwise),
        ({"kernel_size": 7, "stride": 2}, None),
        ({"kernel_size": 1, "groups": 2}, None),
        ({"groups": 2}, None),
        ({"stride": 2, "groups": 2}, None),
        ({"dtype": jnp.bfloat16}, None),
        # Too few positions to outweigh the transform of the kernel.
        ({"shape": (1, 1, 3, 4)}, None),
    ],
)
def test_the_choice_is_by_static_shapes_platform_and_execution(monkeypatch, changes, taken):
    layer = {"shape": (1, 8, 8, 4), "kernel_size": 3, "stride": 1, "groups": 1} | changes
    layer = {"dtype": jnp.float32, "algorithm": "auto"} | layer
    plain = pointwise if taken is pointwise else None
    assert choose_algorithm(**layer) is taken
    assert choose_algorithm(**layer | {"algorithm": "plain"}) is plain
    (batch,) = symbolic_shape("b")
    assert choose_algorithm(**layer | {"shape": (batch, *layer["shape"][1:])}) is plain
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose_algorithm(**layer) is plain
