"""Training: batch statistics, dropout, stochastic depth, frozen parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.models.blocks import AttentionBottleneck, ConvolutionBottleneck
from bottleneck_transformer_flax.models.execution import Execution
from reference import convolution as oracle
from reference.small_models import (
    SMALL_MODELS,
    small_images,
    small_variables,
    train_step,
)
from reference.variables import random_images, random_variables

NAME = "botnet_t3"
PARTS = ("stem", "c2", "c3", "c4", "c5", "head")


def step(name=NAME, **execution):
    """(loss, statistics, gradients) of one step, by path."""
    model = SMALL_MODELS[name].clone(execution=Execution(**execution))
    (loss, statistics), gradients = train_step(model)(small_variables(name), images(name))
    return float(loss), flatten_dict(statistics), flatten_dict(gradients)


def images(name=NAME):
    return small_images(name, batch=4)


def statistics_before(name=NAME):
    return flatten_dict(small_variables(name)["batch_stats"])


def test_training_normalises_by_the_batch_and_draws_nothing_by_default():
    """The running statistics do not matter, and keep nine tenths of their values."""
    variables = small_variables(NAME)
    shifted = jax.tree.map(lambda statistic: statistic * 2 + 1, variables["batch_stats"])
    take = train_step(SMALL_MODELS[NAME])
    (loss, after), _ = take(variables, images())
    (same_loss, shifted_after), _ = take(variables | {"batch_stats": shifted}, images())
    assert loss == same_loss
    for path, before in statistics_before().items():
        difference = flatten_dict(shifted_after)[path] - flatten_dict(after)[path]
        np.testing.assert_allclose(difference, 0.9 * (before + 1), atol=2e-5, err_msg=str(path))


@pytest.mark.parametrize(
    ("name", "through"),
    [
        (NAME, None),
        ("resnet50", "c3"),
        pytest.param("resnet50", "stem", marks=pytest.mark.slow),
        pytest.param("resnet50", "c5", marks=pytest.mark.slow),
    ],
)
def test_frozen_parts_take_no_part_to_the_bit_and_all_others_do(name, through):
    _, statistics, gradients = step(name, frozen_through=through)
    frozen = PARTS[: PARTS.index(through) + 1] if through else ()
    for path, gradient in gradients.items():
        largest = np.abs(gradient).max()
        assert largest == 0 if path[0] in frozen else 1e-7 < largest < np.inf, path
    assert statistics.keys() == statistics_before(name).keys()
    for path, before in statistics_before(name).items():
        assert np.array_equal(statistics[path], before) == (path[0] in frozen), path


def test_frozen_statistics_normalise_as_in_inference_and_stay():
    name = "botnet_s1_50"
    loss, statistics, gradients = step(name, frozen_batch_stats=True)
    jax.tree.map(np.testing.assert_array_equal, statistics, statistics_before(name))
    assert all(np.any(gradient) for gradient in gradients.values())
    logits = jax.jit(SMALL_MODELS[name].apply)(small_variables(name), images(name))
    np.testing.assert_allclose(loss, float(jnp.sum(logits**2)), rtol=1e-5)


def dropping(name, keys, method="__call__", **rates):
    """Training outputs for each key; one forward pass computes what the keys do not change."""
    model = SMALL_MODELS[name]
    model = model.clone(config=model.config.replace(**rates))

    def apply(key):
        return model.apply(
            small_variables(name),
            images(name),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
            method=method,
        )[0]

    return jax.jit(jax.vmap(apply))(keys)


def test_head_dropout_keeps_the_mean():
    keys = jax.random.split(jax.random.key(0), 4000)
    keys = keys.at[1].set(keys[0])
    logits = np.asarray(dropping("resnet50", keys, dropout_rate=0.4))
    np.testing.assert_array_equal(logits[0], logits[1])
    expected = dropping("resnet50", keys[:1], dropout_rate=0.0)[0]
    spread = logits.std(axis=0)
    assert spread.min() > 0.01
    errors = (logits.mean(axis=0) - expected) / (spread / np.sqrt(len(keys)))
    assert np.abs(errors).max() < 5


def test_stochastic_depth_grows_from_none_in_the_first_block():
    keys = jax.random.split(jax.random.key(0), 3)
    keys = keys.at[1].set(keys[0])
    features = dropping("resnet50", keys, "feature_maps", stochastic_depth_rate=0.9)
    np.testing.assert_array_equal(features["c2"][0], features["c2"][2])
    for stage in ("c3", "c4", "c5"):
        np.testing.assert_array_equal(features[stage][0], features[stage][1])
        assert np.abs(features[stage][0] - features[stage][2]).max() > 0.01, stage


@pytest.mark.parametrize("kind", [ConvolutionBottleneck, AttentionBottleneck])
def test_stochastic_depth_drops_an_images_whole_branch_or_scales_it(kind):
    """Each image's output is activation(x) or activation(x + residual / keep), nothing else."""
    rate = 0.4
    config = SMALL_MODELS[NAME].config.replace(se_ratio=0.25)
    x = random_images(8, 3, 4, 32)
    sizes = {"in_channels": 32, "filters": 8, "out_channels": 32, "stride": 1}
    whole, dropped = (kind(config, Execution(), **sizes, drop_rate=each) for each in (0.0, rate))
    shapes = jax.eval_shape(lambda: whole.init(jax.random.key(0), x, train=False))
    variables = random_variables(shapes)
    last = "squeeze_excite" if kind is ConvolutionBottleneck else "expand"
    capture = functools.partial(
        whole.apply,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == last,
    )
    output, state = jax.jit(capture)(variables, x)
    residual = np.asarray(state["intermediates"][last]["__call__"][0], np.float64)
    silu, inputs = oracle.ACTIVATIONS["silu"], np.asarray(x, np.float64)
    np.testing.assert_allclose(output, silu(inputs + residual), atol=1e-5)

    def apply(key):
        rngs = {"dropout": key}
        return dropped.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    outputs = np.asarray(jax.jit(jax.vmap(apply))(jax.random.split(jax.random.key(1), 32)))
    nothing = np.abs(outputs - silu(inputs)).max(axis=(2, 3, 4)) < 1e-5
    scaled = np.abs(outputs - silu(inputs + residual / (1 - rate))).max(axis=(2, 3, 4)) < 1e-4
    assert (nothing ^ scaled).all()
    # 256 draws at 0.4: five standard deviations are 39.
    assert abs(nothing.sum() - 256 * rate) < 39
    assert len({tuple(row) for row in nothing}) > 16, "images of a batch are dropped one by one"
