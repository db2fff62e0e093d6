"""The backward pass recomputes norms and activations, and nothing that is slow; or everything."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from bottleneck_transformer_flax.layers import remat
from bottleneck_transformer_flax.models import botnet
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.flops import abstract_variables, equations
from bottleneck_transformer_flax.models.variants import get_config
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.train_state import create_state
from bottleneck_transformer_flax.training.train_step import DeviceBatch, make_train_step
from reference.small_models import (
    SMALL_MODELS,
    kinds,
    small_images,
    small_variables,
    train_step,
)

PRODUCTS = ("conv_general_dilated", "dot_general")


def products(name, *, gradients=True, **execution):
    """How many convolutions and matrix products a train step, or its forward pass, computes."""
    model = SMALL_MODELS[name].clone(execution=Execution(**execution))
    if gradients:
        function = train_step.__wrapped__(model)
    else:
        function = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    jaxpr = jax.make_jaxpr(function)(small_variables(name), small_images(name)).jaxpr
    names = [equation.primitive.name for equation in equations(jaxpr)]
    return sum(names.count(product) for product in PRODUCTS)


@pytest.fixture(autouse=True)
def no_input_is_small(monkeypatch):
    """The test models' inputs are, and they would save everything."""
    monkeypatch.setattr(remat, "_SMALL_INPUT", 0)


def save_everything(part, x, **_):
    """In the place of ``rematerialise``."""
    return part(x, train=True)


@pytest.mark.parametrize("name", kinds("botnet_t3"))
def test_no_product_is_computed_twice(name):
    """Three of each: forward, and the gradients of both sides; but the images need none."""
    forward = products(name, gradients=False, attention_backend="reference")
    expected = 3 * forward - 1
    assert products(name) == products(name, attention_backend="reference") == expected


def test_parts_with_small_inputs_save_everything(monkeypatch):
    """The stem has the largest input: all parts, it alone, or no part recompute."""

    def checkpoints(smallest):
        monkeypatch.setattr(remat, "_SMALL_INPUT", smallest)
        jaxpr = jax.make_jaxpr(train_step.__wrapped__(SMALL_MODELS["botnet_t3"]))(
            small_variables("botnet_t3"), small_images("botnet_t3")
        )
        return sum(each.primitive.name == "remat2" for each in equations(jaxpr.jaxpr))

    largest = small_images("botnet_t3")[0].size
    assert [checkpoints(smallest) for smallest in (0, largest - 1, largest)] == [6, 1, 0]


def test_blockwise_attention_computes_its_logits_twice_and_remat_all_but_the_head():
    """Logits by the keys, by rows and by columns, in both blocks that attend."""
    forward = products("botnet_t3", gradients=False, attention_backend="blockwise")
    assert products("botnet_t3", attention_backend="blockwise") == 3 * forward - 1 + 3 * 2
    forward, head = products("botnet_t3", gradients=False, attention_backend="reference"), 1
    with_remat = products("botnet_t3", attention_backend="reference", remat=True)
    assert with_remat == 3 * forward - 1 + forward - head


@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradients_are_those_of_saving_everything(monkeypatch, remat):
    model = SMALL_MODELS["botnet_t3"].clone(execution=Execution(remat=remat))
    arguments = small_variables("botnet_t3"), small_images("botnet_t3")
    recomputed = train_step.__wrapped__(model)(*arguments)
    monkeypatch.setattr(botnet, "rematerialise", save_everything)
    saved = train_step.__wrapped__(model)(*arguments)
    for mine, expected in zip(jax.tree.leaves(recomputed), jax.tree.leaves(saved), strict=True):
        scale = np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-4 * scale)


def test_cudnns_attention_is_saved_by_the_name_that_jax_gives_it():
    """It cannot be traced without a GPU; only its forward pass gives what its gradient needs."""
    primitive = fused_attention_stablehlo._dot_product_attention_fwd_p_wrapper
    assert primitive.multiple_results
    assert remat._is_saved(primitive)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_have_it")
def test_what_a_step_of_t3_needs(monkeypatch):
    """By the compiler's analysis of a step of 8 images: under 2 GB, and under half by remat.

    Saving everything would need most in deep networks, so one block a stage is the harder case.
    """
    optimizer = optax.sgd(0.1)
    batch = DeviceBatch(
        jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.uint8),
        jax.ShapeDtypeStruct((8,), jnp.int32),
        jax.ShapeDtypeStruct((8,), bool),
    )

    def temporaries(*, remat=False, **changes):
        model = BoTNet(get_config("botnet_t3", **changes), execution=Execution(remat=remat))
        step = make_train_step(model, optimizer, Preprocessing(), seed=0)
        state = jax.eval_shape(
            functools.partial(create_state, optimizer=optimizer, average=False),
            abstract_variables(model, (224, 224)),
        )
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    usual = temporaries()
    assert usual < 2e9
    assert temporaries(remat=True) < 0.5 * usual
    usual = temporaries(stage_sizes=(1, 1, 1, 1))
    monkeypatch.setattr(botnet, "rematerialise", save_everything)
    assert usual < 0.6 * temporaries(stage_sizes=(1, 1, 1, 1))
