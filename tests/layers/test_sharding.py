"""What merges the batch with other axes: on Explicit axes it is what one device computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.layers.batch_norm import BatchNorm
from bottleneck_transformer_flax.layers.conv_algorithms import im2col, pointwise, winograd
from bottleneck_transformer_flax.layers.dropout import Dropout
from reference.variables import random_images, random_variables

X = random_images(4, 3, 4, 6)


def layer(module, **options):
    """(images, variables) → the output, and variables."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), X, **options))
    rngs = {"dropout": jax.random.key(5)}

    def apply(x, variables):
        return module.apply(variables, x, rngs=rngs, mutable=["batch_stats"], **options)[0]

    return apply, random_variables(shapes)


def convolution(function, size, stride):
    kernel = random_images(size, size, 6, 5, seed=3)
    return lambda x, kernel: function(
        x, kernel, (stride, stride), [(size // 2, size // 2)] * 2
    ), kernel


LAYERS = {
    "winograd": lambda: convolution(winograd, 3, 1),
    "im2col": lambda: convolution(im2col, 3, 2),
    "pointwise": lambda: convolution(pointwise, 1, 2),
    "norm of the batch": lambda: layer(BatchNorm(), use_running_average=False),
    "norm of each image": lambda: layer(BatchNorm(groups=4), use_running_average=False),
    "dropout": lambda: layer(Dropout(0.5, broadcast_dims=(1,)), deterministic=False),
    "reference": lambda: layer(RelativeSelfAttention(2, 4, backend="reference")),
    "blockwise": lambda: layer(RelativeSelfAttention(2, 4, backend="blockwise")),
}


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_on_explicit_axes_are_one_devices(name):
    function, parameters = LAYERS[name]()

    def both(x, parameters):
        output, pull = jax.vjp(function, x, parameters)
        return output, pull(jnp.cos(output))

    expected = jax.jit(both)(X, parameters)
    mesh = jax.make_mesh((2,), ("data",))
    by_batch, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    with jax.set_mesh(mesh):
        found = jax.jit(both)(jax.device_put(X, by_batch), jax.device_put(parameters, whole))
    assert found[0].sharding.is_equivalent_to(by_batch, 4)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(1, np.abs(theirs).max())
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-5)
