"""Training: batch statistics, dropout on the head, stochastic depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.models.blocks import AttentionBottleneck, ConvolutionBottleneck
from bottleneck_transformer_flax.models.botnet import BoTNet
from reference import convolution as oracle
from reference.small_models import (
    SMALL_MODELS,
    all_outputs,
    grid_stride,
    oracle_options,
    small_variables,
)
from reference.variables import random_images, random_variables

NAME = "botnet_t3"
SIZE = (3 * grid_stride(NAME), 5 * grid_stride(NAME))


@pytest.fixture(scope="module")
def images():
    return random_images(4, *SIZE, 3)


def training(model):
    return jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))


def is_watched(module, method):
    return isinstance(module, nn.Conv | RelativeSelfAttention) and method == "__call__"


@pytest.mark.parametrize(("name", "momentum"), [("botnet50", 0.9), ("botnet_tiny", 0.9)])
def test_running_statistics_move_a_tenth_of_the_way_to_the_batchs(name, momentum):
    size = (3 * grid_stride(name), 5 * grid_stride(name))
    batch = random_images(4, *size, 3)
    variables = small_variables(name, *size)
    _, state = jax.jit(
        functools.partial(
            SMALL_MODELS[name].apply,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=is_watched,
        )
    )(variables, batch)
    before, after = flatten_dict(variables["batch_stats"]), flatten_dict(state["batch_stats"])
    inputs = {
        path[:-2]: np.asarray(values[0], np.float64)
        for path, values in flatten_dict(state["intermediates"]).items()
    }
    # The stem's is known without the model: the images' own convolution.
    stem_kernel = variables["params"]["stem"]["layer_1"]["convolution"]["kernel"]
    (stride,) = oracle_options(name).stem_strides
    inputs["stem", "layer_1"] = oracle.convolve(batch, stem_kernel, stride)
    assert before.keys() == after.keys()
    for path in before:
        *block, norm, statistic = path
        values = inputs[tuple(block)]
        if norm == "attention_norm" and block == ["c5", "block_1"] and name == "botnet50":
            values = oracle.average_pool(values)
        measured = {"mean": np.mean, "var": np.var}[statistic](values, axis=(0, 1, 2))
        expected = momentum * np.asarray(before[path]) + (1 - momentum) * measured
        np.testing.assert_allclose(after[path], expected, atol=2e-5, err_msg="/".join(path))
        assert np.abs(after[path] - before[path]).max() > 1e-3, path


def test_training_normalises_by_the_batch_and_draws_nothing_by_default(images):
    """No rngs given, twice the same, and whatever the running statistics are."""
    apply = training(SMALL_MODELS[NAME])
    variables = small_variables(NAME, *SIZE)
    other = variables | {"batch_stats": jax.tree.map(lambda s: s * 2 + 1, variables["batch_stats"])}
    logits, _ = apply(variables, images)
    np.testing.assert_array_equal(logits, apply(variables, images)[0])
    np.testing.assert_array_equal(logits, apply(other, images)[0])
    assert logits.dtype == jnp.float32
    inference = all_outputs(NAME)(variables, images)[0]
    assert np.abs(np.asarray(logits - inference)).max() > 1e-3


def test_every_parameter_is_learnt(images):
    variables = small_variables(NAME, *SIZE)
    probe = random_images(4, 5, seed=7)

    @jax.jit
    @jax.grad
    def gradient(params):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        model = SMALL_MODELS[NAME]
        return jnp.sum(model.apply(state, images, train=True, mutable=["batch_stats"])[0] * probe)

    for path, value in flatten_dict(gradient(variables["params"])).items():
        assert np.isfinite(np.asarray(value)).all(), path
        assert np.abs(value).max() > 1e-7, path


def dropping(**rates):
    model = SMALL_MODELS[NAME]
    return BoTNet(config=model.config.replace(**rates))


def logits_of_keys(model, variables, images, keys):
    """One forward pass; what the keys change is computed for each of them."""

    def apply(key):
        return model.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )[0]

    return np.asarray(jax.jit(jax.vmap(apply))(keys))


def test_head_dropout_keeps_the_mean(images):
    variables = small_variables(NAME, *SIZE)
    keys = jax.random.split(jax.random.key(0), 4000)
    logits = logits_of_keys(dropping(dropout_rate=0.4), variables, images, keys)
    expected = np.asarray(training(SMALL_MODELS[NAME])(variables, images)[0])
    spread = logits.std(axis=0)
    assert spread.min() > 0.01
    errors = (logits.mean(axis=0) - expected) / (spread / np.sqrt(len(keys)))
    assert np.abs(errors).max() < 5
    # Of the same number of keys: products of other shapes may round otherwise.
    again = logits_of_keys(dropping(dropout_rate=0.4), variables, images, keys.at[1:].set(keys[0]))
    np.testing.assert_array_equal(again, np.broadcast_to(logits[:1], logits.shape))


def test_stochastic_depth_grows_from_none_in_the_first_block(images):
    variables = small_variables(NAME, *SIZE)
    model = dropping(stochastic_depth_rate=0.9)

    @jax.jit
    def features(key):
        return model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
            method="feature_maps",
        )[0]

    one, other = features(jax.random.key(0)), features(jax.random.key(1))
    np.testing.assert_array_equal(one["c2"], other["c2"])
    for stage in ("c3", "c4", "c5"):
        assert np.abs(np.asarray(one[stage] - other[stage])).max() > 0.01, stage
    again = features(jax.random.key(0))
    np.testing.assert_array_equal(one["c5"], again["c5"])


@pytest.mark.parametrize("kind", [ConvolutionBottleneck, AttentionBottleneck])
def test_stochastic_depth_drops_an_images_whole_branch_or_scales_it(kind):
    """Each image's output is activation(x) or activation(x + residual / keep), nothing else."""
    rate = 0.4
    config = SMALL_MODELS[NAME].config.replace(se_ratio=0.25)
    x = random_images(8, 3, 4, 32)

    def block(drop_rate):
        return kind(
            config, in_channels=32, filters=8, out_channels=32, stride=1, drop_rate=drop_rate
        )

    whole, dropped = block(0.0), block(rate)
    shapes = jax.eval_shape(lambda: whole.init(jax.random.key(0), x, train=False))
    variables = random_variables(shapes)
    last = "squeeze_excite" if kind is ConvolutionBottleneck else "expand"
    output, state = whole.apply(
        variables,
        x,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == last,
    )
    residual = np.asarray(state["intermediates"][last]["__call__"][0], np.float64)
    silu = oracle.ACTIVATIONS["silu"]
    np.testing.assert_allclose(output, silu(x + residual), atol=1e-5)

    def apply(key):
        rngs = {"dropout": key}
        return dropped.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    outputs = np.asarray(jax.jit(jax.vmap(apply))(jax.random.split(jax.random.key(1), 32)))
    shape = (32, 8)
    nothing = np.abs(outputs - silu(np.asarray(x, np.float64))).max(axis=(2, 3, 4)) < 1e-5
    scaled = np.abs(outputs - silu(x + residual / (1 - rate))).max(axis=(2, 3, 4)) < 1e-4
    assert nothing.shape == shape
    assert (nothing ^ scaled).all()
    # 256 draws at 0.4: five standard deviations are 39.
    assert abs(nothing.sum() - 256 * rate) < 39
    assert len({tuple(row) for row in nothing}) > 16, "images of a batch are dropped one by one"

    inference = dropped.apply(variables, x, train=False)
    np.testing.assert_array_equal(inference, whole.apply(variables, x, train=False))
