"""The backward pass computes norms and activations again, and nothing that takes long."""

import jax
import jax.numpy as jnp
import pytest

from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.cost import equations
from reference.small_models import SMALL_MODELS, grid_stride, kinds, small_variables
from reference.variables import random_images

PRODUCTS = ("conv_general_dilated", "dot_general")


def loss_of(name, backend):
    model = BoTNet(config=SMALL_MODELS[name].config.replace(attention_backend=backend))

    def loss(params, batch_stats, images):
        logits, _ = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.sum(logits**2)

    return loss


def products(name, function):
    """How many convolutions and matrix products a function computes."""
    size = 4 * grid_stride(name), 6 * grid_stride(name)
    variables = small_variables(name, *size)
    arguments = variables["params"], variables["batch_stats"], random_images(2, *size, 3)
    names = [e.primitive.name for e in equations(jax.make_jaxpr(function)(*arguments).jaxpr)]
    return sum(names.count(product) for product in PRODUCTS)


@pytest.mark.parametrize("name", kinds())
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_no_product_is_computed_twice(name, backend):
    """Three of each: forward, and the gradients of both sides; but the images need none."""
    forward = products(name, loss_of(name, "reference"))
    assert products(name, jax.grad(loss_of(name, backend))) == 3 * forward - 1


def test_blockwise_attention_computes_its_logits_twice():
    """By the keys, by rows and by columns, in both blocks that attend."""
    name = "botnet_t3"
    forward = products(name, loss_of(name, "blockwise"))
    again = 3 * 2
    assert products(name, jax.grad(loss_of(name, "blockwise"))) == 3 * forward - 1 + again
