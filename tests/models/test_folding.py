"""Folded batch norm: the same function from the weights alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.checkpoints.pretrained import load_pretrained, save_pretrained
from bottleneck_transformer_flax.conversion.projects import export_checkpoint
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.models.surgery import (
    fold_batch_norm,
    replace_head,
    resize_relative_positions,
)
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.setup import make_setup
from reference.small_models import (
    SMALL_MODELS,
    all_outputs,
    grid_stride,
    kinds,
    small_variables,
)
from reference.variables import random_images

NAME = "botnet_t3"
SIZE = (3 * grid_stride(NAME), 5 * grid_stride(NAME))


def of_size(name):
    return 3 * grid_stride(name), 5 * grid_stride(name)


def flat(variables):
    return flatten_dict(variables, sep="/")


@pytest.mark.parametrize("name", kinds())
def test_every_output_is_the_originals(name):
    variables = small_variables(name, *of_size(name))
    images = random_images(2, *of_size(name), 3)
    folded = fold_batch_norm(SMALL_MODELS[name], variables)
    expected = jax.tree.leaves(all_outputs(name)(variables, images))
    came = jax.tree.leaves(all_outputs(name, folded[0])(folded[1], images))
    assert len(came) == len(expected)
    for ours, theirs in zip(came, expected, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", kinds())
def test_no_norm_is_left_and_the_model_says_what_its_variables_are(name):
    variables = small_variables(name, *of_size(name))
    before = {path: np.array(leaf) for path, leaf in flat(variables).items()}
    model, folded = fold_batch_norm(SMALL_MODELS[name], variables)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *of_size(name), 3)))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), folded) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )
    assert set(folded) == {"params"}
    assert not [path for path in flat(folded) if "norm" in path]
    kept = [path for path in flat(folded) if "kernel" not in path and path in before]
    assert {"params/head/bias"} <= set(kept)
    for path in [*kept, "params/head/kernel"]:
        assert flat(folded)[path] is flat(variables)[path]
    for path, leaf in flat(variables).items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)


def test_what_is_folded_is_left_alone():
    model, variables = fold_batch_norm(SMALL_MODELS[NAME], small_variables(NAME, *SIZE))
    again, same = fold_batch_norm(model, variables)
    assert again is model
    assert same is variables


def test_it_is_for_inference_alone():
    model, variables = fold_batch_norm(SMALL_MODELS[NAME], small_variables(NAME, *SIZE))
    images = random_images(1, *SIZE, 3)
    for method in ("__call__", "feature_maps"):
        with pytest.raises(ConfigError, match="folded batch norm cannot be trained"):
            model.apply(variables, images, train=True, mutable=["batch_stats"], method=method)


def test_variables_without_statistics_are_refused():
    variables = {"params": small_variables(NAME, *SIZE)["params"]}
    with pytest.raises(ConfigError, match="the variables have no batch_stats"):
        fold_batch_norm(SMALL_MODELS[NAME], variables)
    with pytest.raises(ConfigError, match="the variables have no params"):
        fold_batch_norm(SMALL_MODELS[NAME], {})


def test_variables_that_lack_part_of_a_norm_are_refused_with_its_name():
    model, variables = SMALL_MODELS[NAME], small_variables(NAME, *SIZE)
    _, folded = fold_batch_norm(model, variables)
    with pytest.raises(ConfigError, match=r"missing: .*params\.stem\.layer_1\.norm\.scale, "):
        fold_batch_norm(model, {**variables, "params": folded["params"]})
    statistics = {name: tree for name, tree in variables["batch_stats"].items() if name != "stem"}
    with pytest.raises(ConfigError, match=r"missing: batch_stats\.stem\.layer_1\.norm\.mean, "):
        fold_batch_norm(model, {**variables, "batch_stats": statistics})


def test_a_norm_of_which_nothing_is_there_is_named():
    model, variables = SMALL_MODELS[NAME], small_variables(NAME, *SIZE)
    params, statistics = flatten_dict(variables["params"]), flatten_dict(variables["batch_stats"])
    for norm in (("stem", "layer_1", "norm"), ("c5", "block_1", "attention_norm")):
        kept = [
            {path: leaf for path, leaf in tree.items() if path[: len(norm)] != norm}
            for tree in (params, statistics)
        ]
        without = dict(zip(("params", "batch_stats"), map(unflatten_dict, kept), strict=True))
        name = ".".join(norm)
        with pytest.raises(ConfigError, match=rf"missing: params\.{name}\.scale, .*{name}\.mean"):
            fold_batch_norm(model, without)


def test_before_or_after_other_surgery():
    larger = (2 * SIZE[0], SIZE[1])
    key = jax.random.key(3)

    def operated(*steps):
        model, variables = SMALL_MODELS[NAME], small_variables(NAME, *SIZE)
        for step in steps:
            model, variables = step(model, variables)
        return model, flat(variables)

    def resize(model, variables):
        return resize_relative_positions(model, variables, larger)

    def behead(model, variables):
        return replace_head(model, variables, num_classes=3, rng=key)

    one, first = operated(fold_batch_norm, resize, behead)
    other, second = operated(behead, resize, fold_batch_norm)
    assert one == other
    assert first.keys() == second.keys()
    for path, leaf in first.items():
        np.testing.assert_array_equal(leaf, second[path], err_msg=path)


@pytest.mark.usefixtures("as_users_have_it")
def test_it_is_not_exported_and_not_trained_on(tmp_path):
    model, variables = fold_batch_norm(SMALL_MODELS[NAME], small_variables(NAME, *SIZE))
    folded = save_folded(tmp_path / "folded", model, variables)
    with pytest.raises(CheckpointError, match="folded into its weights, and timm's are not"):
        export_checkpoint(folded, tmp_path / "timm.safetensors", "timm")
    with pytest.raises(ConfigError, match=r"folded are folded .* name the model that it was"):
        make_setup(RunConfig(variant=None, pretrained=str(tmp_path / "folded")))
    assert [path.name for path in tmp_path.iterdir()] == ["folded"]


def save_folded(path, model, variables):
    save_pretrained(path, model, variables, Preprocessing(size=SIZE), tuple("abcde"))
    return load_pretrained(path)


@pytest.mark.usefixtures("as_users_have_it")
def test_saved_and_loaded(tmp_path):
    model, variables = fold_batch_norm(SMALL_MODELS[NAME], small_variables(NAME, *SIZE))
    loaded = save_folded(tmp_path / "folded", model, variables)
    assert loaded.model == model
    for path, leaf in flat(loaded.variables).items():
        np.testing.assert_array_equal(leaf, flat(variables)[path], err_msg=path)


def test_bfloat16():
    """As near to float32 as the unfolded model is, but for other roundings."""
    images = random_images(4, *SIZE, 3)
    variables = small_variables(NAME, *SIZE)
    model = SMALL_MODELS[NAME]
    half = model.clone(config=model.config.replace(dtype="bfloat16"))

    def error(model, variables):
        apply = jax.jit(functools.partial(model.apply, method="feature_maps"))
        features = apply(variables, images)["c5"].astype(jnp.float32)
        return np.sqrt(np.mean((features - exact) ** 2))

    exact = SMALL_MODELS[NAME].apply(variables, images, method="feature_maps")["c5"]
    unfolded = error(half, variables)
    assert 0 < error(*fold_batch_norm(half, variables)) < 1.5 * unfolded
