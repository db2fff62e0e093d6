"""Every kind of model, small, really computed: against the NumPy network, and its invariants."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottleneck_transformer_flax.models import blocks
from bottleneck_transformer_flax.models.config import Activation
from bottleneck_transformer_flax.models.execution import Execution
from reference import network as oracle
from reference.convolution import ACTIVATIONS
from reference.forms import BACKEND_FORMS, FOLDED, in_form
from reference.small_models import (
    NAMES,
    SMALL_MODELS,
    all_outputs,
    kinds,
    oracle_options,
    small_images,
    small_variables,
    train_step,
)

FLOAT32 = {jnp.dtype(jnp.float32)}


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


def in_bfloat16(model):
    return model.clone(config=model.config.replace(dtype="bfloat16"))


@pytest.mark.parametrize("name", kinds())
@pytest.mark.parametrize("form", [*BACKEND_FORMS, FOLDED])
def test_all_outputs_are_the_oracles(name, form):
    """At a size that no stride divides, with an odd grid under every strided block."""
    variables, images = small_variables(name), small_images(name)
    expected = oracle.network(images, variables, oracle_options(name))
    model, variables = in_form(form, SMALL_MODELS[name], variables)
    found = all_outputs(model)(variables, images)
    assert (found.logits.dtype, found.pooled_features.dtype) == (jnp.float32, jnp.float32)
    assert expected.logits.std() > 0.05
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-5)
    assert list(found.feature_maps) == list(expected.feature_maps)
    assert list(found.attention_maps) == list(expected.attention_maps)
    assert bool(found.attention_maps) == ("botne" in name)
    others = [
        (found.pooled_features, expected.pooled_features),
        *((found.feature_maps[stage], maps) for stage, maps in expected.feature_maps.items()),
        *((found.attention_maps[name], maps) for name, maps in expected.attention_maps.items()),
    ]
    for ours, oracles in others:
        scale = np.abs(oracles).max()
        np.testing.assert_allclose(ours, oracles, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_images_of_any_float_give_the_same_logits(dtype):
    variables, images = small_variables("resnet50"), np.asarray(small_images("resnet50"), "f2")
    images = images.astype(jnp.bfloat16).astype(np.float32)
    model = SMALL_MODELS["resnet50"]
    expected = all_outputs(model)(variables, images)[0]
    # NumPy's arrays as they are: jit would convert them first.
    logits = jax.jit(lambda v: model.apply(v, images.astype(dtype)))(variables)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", get_args(Activation))
def test_activations_are_the_oracles(name):
    x = np.linspace(-6, 6, 97, dtype=np.float32)
    expected = ACTIVATIONS[name](np.asarray(x, np.float64))
    np.testing.assert_allclose(blocks.ACTIVATIONS[name](x), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_eager_is_compiled():
    arguments = (small_variables("botnet_tiny"), small_images("botnet_tiny"))
    model = SMALL_MODELS["botnet_tiny"]
    np.testing.assert_allclose(
        model.apply(*arguments), all_outputs(model)(*arguments)[0], rtol=0, atol=1e-5
    )


def test_inference_is_the_default_and_the_same_program_whatever_is_dropped_or_frozen():
    """No random numbers given, and nothing mutable."""
    model = SMALL_MODELS["botnet_t3"]
    dropping = model.config.replace(dropout_rate=0.9, stochastic_depth_rate=0.9)
    frozen = Execution(frozen_through="c4", frozen_batch_stats=True)
    arguments = (small_variables("botnet_t3"), small_images("botnet_t3"))
    programs = {
        str(jax.make_jaxpr(each.apply)(*arguments))
        for each in (model, model.clone(config=dropping), model.clone(execution=frozen))
    }
    assert len(programs) == 1


FLOPS = {"compute_flops": True, "compute_vjp_flops": True, "console_kwargs": {"width": 400}}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_flax_tabulates_the_flops_of_every_layer(name):
    table = SMALL_MODELS[name].tabulate(jax.random.key(0), small_images(name), **FLOPS)
    assert "c5/block_2/expand" in table


def test_flax_tabulates_the_flops_of_a_block():
    config = SMALL_MODELS["botnet50"].config
    block = blocks.AttentionBottleneck(
        config, Execution(), in_channels=4, filters=4, out_channels=8, stride=1, drop_rate=0.0
    )
    table = block.tabulate(jax.random.key(0), jnp.ones((1, 1, 2, 4)), train=False, **FLOPS)
    assert "vjp_flops" in table
    assert "shortcut" in table


@pytest.mark.parametrize("name", ["botnet50", "botnet_t3"])
def test_in_bfloat16_outputs_are_near_those_of_float32(name):
    model, arguments = SMALL_MODELS[name], (small_variables(name), small_images(name))
    exact = all_outputs(model)(*arguments)
    found = all_outputs(in_bfloat16(model))(*arguments)
    assert (found.logits.dtype, found.pooled_features.dtype) == (jnp.float32, jnp.float32)
    assert dtypes(found.feature_maps) == {jnp.dtype(jnp.bfloat16)}
    assert np.abs(np.asarray(found.logits - exact.logits)).max() < 0.1 * np.std(exact.logits)
    for stage, features in exact.feature_maps.items():
        difference = np.abs(np.asarray(found.feature_maps[stage], np.float32) - features)
        assert difference.max() < 0.05 * np.abs(features).max(), stage
    assert dtypes(found.attention_maps) == FLOAT32
    for name, maps in exact.attention_maps.items():
        ours, is_weights = found.attention_maps[name], not name.endswith("logits")
        if is_weights:
            np.testing.assert_allclose(ours.sum(axis=(-2, -1)), 1, atol=1e-5)
        atol = 0.02 if is_weights else 0.05 * np.abs(maps).max()
        np.testing.assert_allclose(ours, maps, rtol=0, atol=atol)


def test_in_bfloat16_statistics_and_gradients_are_float32():
    name = "botnet_t3"
    model, half = SMALL_MODELS[name], in_bfloat16(SMALL_MODELS[name])
    arguments = (small_variables(name), small_images(name, batch=4))
    assert dtypes(jax.eval_shape(train_step(half), *arguments)) == FLOAT32
    apply = functools.partial(half.apply, train=True, mutable=["batch_stats"])
    logits, state = jax.jit(apply)(*arguments)
    assert dtypes((logits, state)) == FLOAT32
    exact = train_step(model)(*arguments)[0][1]
    for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0.02, atol=0.02)
