"""Another resolution, another head, folded norms: the same network, and proof that it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.checkpoints.pretrained import save_pretrained
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.layers.relative_position import resize_table
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.surgery import (
    fold_batch_norm,
    replace_head,
    resize_relative_positions,
)
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.setup import make_setup
from reference import network as oracle
from reference.small_models import (
    SMALL_MODELS,
    TIMM,
    all_outputs,
    grid_stride,
    kinds,
    oracle_options,
    small_images,
    small_size,
    small_variables,
)
from reference.variables import random_images

NAME = "botnet_t3"
TABLES = ("relative_height", "relative_width")
PLAIN = Execution(attention_backend="reference", convolution_algorithm="plain")


def size_of(name, rows, columns):
    """The image whose c4 has rows × columns positions."""
    return rows * grid_stride(name), columns * grid_stride(name)


def flat(variables):
    return flatten_dict(variables, sep="/")


def assert_untouched(variables, copies):
    jax.tree.map(np.testing.assert_array_equal, variables, copies)


@pytest.mark.parametrize("name", kinds())
def test_resizing_changes_the_tables_alone_and_not_the_original(name):
    variables = small_variables(name)
    copies = jax.tree.map(np.array, variables)
    model = SMALL_MODELS[name].clone(execution=PLAIN)
    resized_model, resized = resize_relative_positions(model, variables, size_of(name, 6, 4))
    assert resized_model == model
    for path, leaf in flat(resized).items():
        if path.endswith(TABLES):
            halves = name == "botnet50" or name in TIMM
            halved = halves and path.startswith("params/c5/block_2")
            rows, columns = (3, 2) if halved else (12, 8) if "/c3/" in path else (6, 4)
            length = rows if path.endswith("height") else columns
            expected = resize_table(flat(variables)[path], length)
            np.testing.assert_array_equal(leaf, expected, err_msg=path)
        else:
            assert leaf is flat(variables)[path], path
    assert_untouched(variables, copies)
    _, same = resize_relative_positions(model, variables, small_size(name))
    assert all(flat(same)[path] is leaf for path, leaf in flat(variables).items())


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("botnet50", (6, 3)),
        ("botnet_tiny", (2, 7)),
        *(pytest.param(name, (2, 7), marks=pytest.mark.slow) for name in ("botnet_t3", *TIMM)),
    ],
)
def test_the_resized_network_is_the_oracles_with_the_new_tables(name, grid):
    new_size = size_of(name, *grid)
    model, resized = resize_relative_positions(SMALL_MODELS[name], small_variables(name), new_size)
    images = random_images(1, *new_size, 3)
    logits, _, attention = all_outputs(model)(resized, images)
    expected = oracle.network(images, resized, oracle_options(name))
    assert attention.keys() == expected.attention_maps.keys()
    for block, weights in attention.items():
        np.testing.assert_allclose(weights, expected.attention_maps[block], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits, expected.logits, rtol=0, atol=1e-5)


def test_a_new_head_reads_the_same_features():
    name = "resnet50"
    variables, images = small_variables(name), small_images(name)
    copies = jax.tree.map(np.array, variables)
    original = SMALL_MODELS[name].clone(execution=PLAIN)
    draw = functools.partial(replace_head, original, variables, num_classes=9)
    model, changed = draw(rng=jax.random.key(4))
    assert model.config == original.config.replace(num_classes=9)
    assert model.execution == PLAIN
    head = changed["params"]["head"]
    assert {leaf.dtype for leaf in jax.tree.leaves(head)} == {jnp.dtype(jnp.float32)}
    assert head["kernel"].std() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_array_equal(head["bias"], 0)
    assert flat(changed).keys() == flat(variables).keys()
    for path, leaf in flat(changed).items():
        assert path.startswith("params/head/") or leaf is flat(variables)[path], path
    assert_untouched(variables, copies)
    again, other = (draw(rng=jax.random.key(seed))[1]["params"]["head"] for seed in (4, 5))
    np.testing.assert_array_equal(again["kernel"], head["kernel"])
    assert np.abs(other["kernel"] - head["kernel"]).max() > 1e-3

    head["bias"] = jnp.arange(9, dtype=jnp.float32)
    logits, features, _ = all_outputs(model)(changed, images)
    _, before, _ = all_outputs(original)(variables, images)
    jax.tree.map(np.testing.assert_array_equal, features, before)
    pooled = np.asarray(before["c5"], np.float64).mean(axis=(1, 2))
    expected = pooled @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def folded(name=NAME):
    return fold_batch_norm(SMALL_MODELS[name], small_variables(name))


@pytest.mark.parametrize("name", kinds(NAME))
def test_every_output_of_the_folded_network_is_the_originals(name):
    model, variables = folded(name)
    images = small_images(name)
    expected = all_outputs(SMALL_MODELS[name])(small_variables(name), images)
    for ours, theirs in zip(
        jax.tree.leaves(all_outputs(model)(variables, images)),
        jax.tree.leaves(expected),
        strict=True,
    ):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", kinds())
def test_folding_leaves_no_norm_and_the_model_says_what_its_variables_are(name):
    variables = small_variables(name)
    copies = jax.tree.map(np.array, variables)
    model, result = fold_batch_norm(SMALL_MODELS[name].clone(execution=PLAIN), variables)
    assert model.execution == PLAIN
    images = jnp.zeros((1, *small_size(name), 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), result) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )
    assert set(result) == {"params"}
    assert not [path for path in flat(result) if "norm" in path]
    for path, leaf in flat(result).items():
        if path.startswith("params/head/") or path.endswith(TABLES):
            assert leaf is flat(variables)[path]
    assert_untouched(variables, copies)
    again, same = fold_batch_norm(model, result)
    assert again is model
    assert same is result


def test_a_folded_model_is_for_inference_alone():
    model, variables = folded()
    for method in ("__call__", "feature_maps"):
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats"], method=method)
        with pytest.raises(ConfigError, match="folded batch norm cannot be trained"):
            apply(variables, small_images(NAME))


@pytest.mark.usefixtures("as_users_have_it")
def test_a_run_does_not_start_from_a_folded_model(tmp_path):
    preprocessing = Preprocessing(size=small_size(NAME))
    save_pretrained(tmp_path / "folded", *folded(), preprocessing, tuple("abcde"))
    with pytest.raises(ConfigError, match=r"folded are folded .* name the model that it was"):
        make_setup(RunConfig(variant=None, pretrained=str(tmp_path / "folded")))


def test_operations_commute_to_the_bit():
    steps = {
        "fold": fold_batch_norm,
        "resize": lambda model, variables: resize_relative_positions(model, variables, (96, 80)),
        "head": functools.partial(replace_head, num_classes=3, rng=jax.random.key(3)),
    }

    def operated(*names):
        result = SMALL_MODELS[NAME], small_variables(NAME)
        for name in names:
            result = steps[name](*result)
        return result

    model, first = operated("fold", "resize", "head")
    other, second = operated("head", "resize", "fold")
    assert model == other
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_in_bfloat16_the_folded_model_is_as_near_to_float32_as_the_unfolded():
    variables, model = small_variables(NAME), SMALL_MODELS[NAME]
    half = model.clone(config=model.config.replace(dtype="bfloat16"))

    def features(model, variables):
        feature_maps = all_outputs(model)(variables, small_images(NAME))[1]
        return np.asarray(feature_maps["c5"], np.float32)

    exact = features(model, variables)
    errors = [
        np.sqrt(np.mean((features(*each) - exact) ** 2))
        for each in ((half, variables), fold_batch_norm(half, variables))
    ]
    assert 0 < errors[1] < 1.5 * errors[0]


def without(variables, *prefix):
    paths = {path: leaf for path, leaf in flatten_dict(variables).items()}
    return unflatten_dict({p: leaf for p, leaf in paths.items() if p[: len(prefix)] != prefix})


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["batch_stats"], "the variables have no batch_stats"),
        (["params stem layer_1 norm scale"], r"missing: params\.stem\.layer_1\.norm\.scale$"),
        (
            ["params c5 block_1 attention_norm", "batch_stats c5 block_1 attention_norm"],
            r"missing: params\.c5\.block_1\.attention_norm\.scale, .*attention_norm\.mean",
        ),
    ],
)
def test_folding_names_the_variables_it_lacks(missing, message):
    variables = small_variables(NAME)
    for path in missing:
        variables = without(variables, *path.split())
    with pytest.raises(ConfigError, match=message):
        fold_batch_norm(SMALL_MODELS[NAME], variables)


@pytest.mark.usefixtures("as_users_have_it")
def test_arguments_that_do_not_fit_are_refused():
    model, variables, key = SMALL_MODELS[NAME], small_variables(NAME), jax.random.key(0)
    resize = functools.partial(resize_relative_positions, model)
    with pytest.raises(ConfigError, match=r"8 × 64.*at least 16"):
        resize(variables, (8, 64))
    with pytest.raises(ConfigError, match="image size is 64; expected"):
        resize(variables, 64)
    with pytest.raises(ConfigError, match=r"no params \(given: \['c2', "):
        resize(variables["params"], (48, 80))
    with pytest.raises(ConfigError, match=r"no params \(given: NoneType"):
        resize(None, (48, 80))
    with pytest.raises(ConfigError, match=r"hold c5.block_1.*relative_.* has no attention there"):
        resize_relative_positions(SMALL_MODELS["resnet50"], variables, (48, 80))
    with pytest.raises(ConfigError, match=r"num_classes is 0.*at least 1"):
        replace_head(model, variables, num_classes=0, rng=key)
    with pytest.raises(ConfigError, match="no head to replace; they hold c2"):
        replace_head(model, {"params": {"c2": {}}}, num_classes=3, rng=key)
