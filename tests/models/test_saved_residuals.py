"""The backward pass computes norms and activations again, and nothing that takes long; or all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax._src.cudnn import fused_attention_stablehlo

from bottleneck_transformer_flax.layers import remat as memory
from bottleneck_transformer_flax.models import botnet
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.flops import abstract_variables, equations
from bottleneck_transformer_flax.models.variants import get_config
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.train_state import create_state
from bottleneck_transformer_flax.training.train_step import (
    DeviceBatch,
    make_train_step,
    step_compiler_options,
)
from reference.small_models import SMALL_MODELS, grid_stride, kinds, small_variables
from reference.variables import random_images

OTHER_KINDS = [
    pytest.param(name, marks=pytest.mark.slow) for name in SMALL_MODELS if name != "botnet_t3"
]
PRODUCTS = ("conv_general_dilated", "dot_general")


def loss_of(name, backend="auto", **changes):
    model = SMALL_MODELS[name].clone(execution=Execution(attention_backend=backend, **changes))

    def loss(params, batch_stats, images):
        logits, state = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.sum(jax.nn.log_softmax(logits)[:, 0]), state["batch_stats"]

    return loss


def arguments_of(name):
    """With small residual branches: gradients through large ones magnify rounding errors."""
    size = 4 * grid_stride(name), 6 * grid_stride(name)
    variables = small_variables(name, *size)
    params = flatten_dict(variables["params"])
    last_scales = [path for path in params if path[-3:] == ("expand", "norm", "scale")]
    assert last_scales
    params |= {path: 0.2 * params[path] for path in last_scales}
    return unflatten_dict(params), variables["batch_stats"], random_images(2, *size, 3)


def products(name, function):
    """How many convolutions and matrix products a function computes."""
    jaxpr = jax.make_jaxpr(function)(*arguments_of(name)).jaxpr
    names = [equation.primitive.name for equation in equations(jaxpr)]
    return sum(names.count(product) for product in PRODUCTS)


@pytest.mark.parametrize("name", kinds())
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_no_product_is_computed_twice(name, backend):
    """Three of each: forward, and the gradients of both sides; but the images need none.

    The stem that they go into is one product, or Winograd's sixteen where it is 3×3 of stride 1.
    """
    forward = products(name, loss_of(name, "reference"))
    gradient = jax.grad(loss_of(name, backend), has_aux=True)
    assert products(name, gradient) == 3 * forward - (16 if name == "botnet_small" else 1)


def test_blockwise_attention_computes_its_logits_twice():
    """By the keys, by rows and by columns, in both blocks that attend."""
    name = "botnet_t3"
    forward = products(name, loss_of(name, "blockwise"))
    again = 3 * 2
    gradient = jax.grad(loss_of(name, "blockwise"), has_aux=True)
    assert products(name, gradient) == 3 * forward - 1 + again


def test_remat_computes_all_but_the_head_twice():
    name, head = "botnet_t3", 1
    forward = products(name, loss_of(name, "reference"))
    gradient = jax.grad(loss_of(name, "reference", remat=True), has_aux=True)
    assert products(name, gradient) == 3 * forward - 1 + forward - head


@pytest.mark.parametrize("name", ["botnet_t3", *OTHER_KINDS])
def test_gradients_are_those_of_what_keeps_everything(name, monkeypatch):
    arguments = arguments_of(name)

    def gradients(**changes):
        function = jax.value_and_grad(loss_of(name, **changes), (0, 2), has_aux=True)
        quickly = {"xla_backend_optimization_level": 0}
        options = step_compiler_options() | quickly
        return jax.tree.leaves(jax.jit(function, compiler_options=options)(*arguments))

    some_again, all_again = gradients(), gradients(remat=True)
    monkeypatch.setattr(botnet, "rematerialise", lambda part, x, **_: part(x, train=True))
    for some, all_, expected in zip(some_again, all_again, gradients(), strict=True):
        scale = float(jnp.abs(expected).max()) + 1e-6
        np.testing.assert_allclose(some, expected, rtol=0, atol=1e-4 * scale)
        np.testing.assert_allclose(all_, expected, rtol=0, atol=1e-4 * scale)


def test_cudnns_attention_is_kept_by_the_name_that_jax_gives_it():
    """It cannot be traced without a GPU; only its forward pass gives what its gradient needs."""
    primitive = fused_attention_stablehlo._dot_product_attention_fwd_p_wrapper
    assert primitive.multiple_results
    assert memory._is_saved(primitive)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_have_it")
def test_what_a_step_of_t3_needs(monkeypatch):
    """By the compiler's analysis of a step of 8 images: under 2 GB, and under half by remat."""
    optimizer = optax.sgd(0.1)
    batch = DeviceBatch(
        jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.uint8),
        jax.ShapeDtypeStruct((8,), jnp.int32),
        jax.ShapeDtypeStruct((8,), bool),
    )

    def temporaries(**changes):
        model = BoTNet(config=get_config("botnet_t3"), execution=Execution(**changes))
        step = make_train_step(model, optimizer, Preprocessing(), seed=0)
        state = jax.eval_shape(
            functools.partial(create_state, optimizer=optimizer, average=False),
            abstract_variables(model, (224, 224)),
        )
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    usual, remat = temporaries(), temporaries(remat=True)
    monkeypatch.setattr(botnet, "rematerialise", lambda part, x, **_: part(x, train=True))
    everything = temporaries()
    print(f"temporaries: {everything:,} bytes, usual {usual:,}, remat {remat:,}")
    assert usual < 2e9
    assert usual < 0.6 * everything
    assert remat < 0.5 * usual
