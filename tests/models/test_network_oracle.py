"""Every kind of model, small, really computed: against the NumPy network, and its invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.models.botnet import BoTNet
from reference import network as oracle
from reference import small_models
from reference.forms import FORMS, in_form
from reference.small_models import (
    OWN,
    SMALL_MODELS,
    all_outputs,
    apply,
    grid_stride,
    oracle_options,
    small_variables,
)
from reference.variables import random_images

kinds = pytest.mark.parametrize("name", small_models.kinds())
TIMM_KINDS = {
    "botnet26t_256": ("C", "CC", "CA", "AA"),
    "sebotnet33ts_256": ("C", "CCA", "CC", "AA"),
    "botnet50ts_256": ("C", "CC", "CA", "CA"),
    "eca_botnext26ts_256": ("C", "CC", "CA", "AA"),
}


def even_size(name):
    """A non-square image whose c4 has 3 × 5 positions: odd where a strided block attends."""
    return 3 * grid_stride(name), 5 * grid_stride(name)


def odd_size(name):
    """An image no stride divides."""
    stride = grid_stride(name)
    return 2 * stride + stride // 4 | 1, 3 * stride + stride // 5 | 1


def test_the_kinds_are_the_ones_we_know():
    assert list(SMALL_MODELS) == [
        "botnet50",
        "botnet_s1_50",
        "botnet_t3",
        "resnet50",
        "seresnet50",
        "botnet_tiny",
        "botnet_small",
        "botnet26t_256",
        "sebotnet33ts_256",
        "botnet50ts_256",
        "eca_botnext26ts_256",
    ]


@kinds
@pytest.mark.parametrize("size_of", [even_size, odd_size])
@pytest.mark.parametrize("form", FORMS)
def test_all_outputs_are_the_oracles(name, size_of, form):
    size = size_of(name)
    variables = small_variables(name, *size)
    images = random_images(2, *size, 3)
    expected = oracle.network(images, variables, oracle_options(name))
    model, variables = in_form(form, SMALL_MODELS[name], variables)
    logits, feature_maps, attention_maps = all_outputs(name, model)(variables, images)
    difference = np.abs(np.asarray(logits) - expected.logits).max()
    print(f"{name} at {size}: largest difference of the logits from the oracle {difference:.2e}")
    assert expected.logits.std() > 0.05
    np.testing.assert_allclose(logits, expected.logits, rtol=0, atol=1e-5)
    assert list(feature_maps) == list(expected.feature_maps)
    for stage, feature_map in feature_maps.items():
        scale = np.abs(expected.feature_maps[stage]).max()
        np.testing.assert_allclose(
            feature_map, expected.feature_maps[stage], rtol=0, atol=1e-5 * scale, err_msg=stage
        )
    assert list(attention_maps) == list(expected.attention_maps)
    assert bool(attention_maps) == ("botne" in name)
    for block, weights in attention_maps.items():
        np.testing.assert_allclose(weights.sum(axis=(-2, -1)), 1, atol=1e-5)
        np.testing.assert_allclose(
            weights, expected.attention_maps[block], rtol=0, atol=1e-5, err_msg=block
        )


@kinds
def test_images_of_a_batch_do_not_see_each_other(name):
    size = even_size(name)
    variables = small_variables(name, *size)
    images = random_images(2, *size, 3)
    together = all_outputs(name)(variables, images)[0]
    for index in range(2):
        alone = apply(name)(variables, images[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=1e-5)


def test_compiled_is_eager():
    name, size = "botnet_tiny", even_size("botnet_tiny")
    variables = small_variables(name, *size)
    images = random_images(1, *size, 3)
    eager = SMALL_MODELS[name].apply(variables, images)
    compiled = jax.jit(SMALL_MODELS[name].apply)(variables, images)
    np.testing.assert_allclose(eager, compiled, rtol=0, atol=1e-5)


@kinds
def test_inference_is_the_default_and_draws_nothing(name):
    """No rngs, nothing mutable; a dropout of nearly everything would show."""
    size = even_size(name)
    config = SMALL_MODELS[name].config
    dropping = BoTNet(config=config.replace(dropout_rate=0.9, stochastic_depth_rate=0.9))
    variables = small_variables(name, *size)
    images = random_images(1, *size, 3)
    logits = apply(name)(variables, images)
    assert logits.dtype == jnp.float32
    assert np.isfinite(np.asarray(logits)).all()
    np.testing.assert_array_equal(logits, jax.jit(dropping.apply)(variables, images))


@pytest.mark.parametrize("name", ["botnet50", "botnet_t3"])
@pytest.mark.parametrize("statistic", ["mean", "var"])
def test_inference_uses_the_running_statistics(name, statistic):
    size = even_size(name)
    variables = small_variables(name, *size)
    images = random_images(1, *size, 3)
    before = apply(name)(variables, images)
    last = variables["batch_stats"]["c5"]["block_2"]["expand"]["norm"]
    moved = last | {statistic: last[statistic] * 2 + 1}
    block = variables["batch_stats"]["c5"]["block_2"]
    block = block | {"expand": {"norm": moved}}
    stage = variables["batch_stats"]["c5"] | {"block_2": block}
    changed = variables | {"batch_stats": variables["batch_stats"] | {"c5": stage}}
    assert np.abs(np.asarray(apply(name)(changed, images) - before)).max() > 1e-3


def test_an_unactivated_attention_shortcut_is_the_oracles_without_one():
    """timm's form; and activation or not must matter."""
    name, size = "botnet50", even_size("botnet50")
    model = SMALL_MODELS[name]
    plain = model.clone(config=model.config.replace(attention_shortcut_activation=False))
    variables = small_variables(name, *size)
    images = random_images(2, *size, 3)
    logits = jax.jit(plain.apply)(variables, images)
    options = oracle_options(name)
    expected = oracle.network(images, variables, options._replace(shortcut_activation=False))
    np.testing.assert_allclose(logits, expected.logits, rtol=0, atol=1e-5)
    activated = all_outputs(name)(variables, images)[0]
    assert np.abs(np.asarray(activated) - expected.logits).max() > 0.01


def test_a_residual_branch_whose_last_norm_is_zero_is_nothing():
    """As every branch starts: then nothing inside one changes any output."""
    name = "botnet_t3"
    size = even_size(name)
    first, second = (dict(small_variables(name, *size, seed=seed)) for seed in (0, 1))
    before, after = flatten_dict(first["params"]), flatten_dict(second["params"])
    inside = {"reduce", "spatial", "attention", "attention_norm", "expand", "squeeze_excite"}
    for path, leaf in before.items():
        if path[-3:-1] == ("expand", "norm"):
            before[path] = after[path] = jnp.zeros_like(leaf)
        elif not inside & set(path):
            after[path] = leaf
    second = {"params": unflatten_dict(after), "batch_stats": first["batch_stats"]}
    first |= {"params": unflatten_dict(before)}
    images = random_images(2, *size, 3)
    features = all_outputs(name)(first, images)[1]
    for stage, others in all_outputs(name)(second, images)[1].items():
        np.testing.assert_array_equal(features[stage], others, err_msg=stage)


@kinds
def test_squeeze_excite_is_in_convolution_blocks_only(name):
    params = small_variables(name, *even_size(name))["params"]
    kinds = TIMM_KINDS.get(name, ("C", "C", "C", "AA" if "botnet" in name else "CC"))
    for stage, expected in zip(("c2", "c3", "c4", "c5"), kinds, strict=True):
        blocks = params[stage]
        assert (
            "".join("A" if "attention" in block else "C" for block in blocks.values()) == expected
        )
        for block in blocks.values():
            attends = "attention" in block
            assert attends != ("spatial" in block)
            scaled = name in ("botnet_t3", "seresnet50", *OWN, "sebotnet33ts_256")
            assert ("squeeze_excite" in block) == (scaled and not attends)
            neighbours = name == "eca_botnext26ts_256"
            assert ("efficient_attention" in block) == (neighbours and not attends)


@kinds
def test_projection_shortcuts_are_only_where_the_shape_changes(name):
    params = small_variables(name, *even_size(name))["params"]
    for stage in ("c2", "c3", "c4", "c5"):
        # Our small one's c2 has as many channels as its stem, at the same resolution.
        changes = (name, stage) != ("botnet_small", "c2")
        assert ("shortcut" in params[stage]["block_1"]) == changes
    assert "shortcut" not in params["c5"]["block_2"]
