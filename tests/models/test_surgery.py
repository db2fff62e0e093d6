"""Another resolution, another head, folded norms: the same network, and proof that it is."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.layers.relative_position import resize_table
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.surgery import (
    fold_batch_norm,
    replace_head,
    resize_relative_positions,
)
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


def assert_same_arrays(variables, expected):
    """Not copies of them."""
    assert flat(variables).keys() == expected.keys()
    assert all(leaf is expected[path] for path, leaf in flat(variables).items())


@pytest.mark.parametrize("name", kinds())
def test_resizing_changes_the_tables_alone_and_not_the_original(name):
    variables = small_variables(name)
    original = flat(variables)
    model = SMALL_MODELS[name].clone(execution=PLAIN)
    resized_model, resized = resize_relative_positions(model, variables, size_of(name, 6, 4))
    assert resized_model == model
    expected = dict(original)
    for path in expected:
        if path.endswith(TABLES):
            halves = name == "botnet50" or name in TIMM
            halved = halves and path.startswith("params/c5/block_2")
            rows, columns = (3, 2) if halved else (12, 8) if "/c3/" in path else (6, 4)
            length = rows if path.endswith("height") else columns
            np.testing.assert_array_equal(flat(resized)[path], resize_table(original[path], length))
            expected[path] = flat(resized)[path]
    assert_same_arrays(resized, expected)
    assert_same_arrays(variables, original)
    _, same = resize_relative_positions(model, variables, small_size(name))
    assert_same_arrays(same, original)


@pytest.mark.parametrize(
    ("name", "grid", "fitting"),
    [
        # From 3 × 5 positions in c4, and 2 × 3 in c5: the blocks of c4 attend too.
        ("botnet26t_256", (4, 6), {"params/c5/block_2"}),
        ("botnet_tiny", (2, 7), set()),
        *(
            pytest.param(name, (2, 7), set(), marks=pytest.mark.slow)
            for name in ("botnet50", "botnet_t3", *TIMM)
        ),
    ],
)
def test_the_resized_network_is_the_oracles_with_the_new_tables(name, grid, fitting):
    new_size, original = size_of(name, *grid), flat(small_variables(name))
    model, resized = resize_relative_positions(SMALL_MODELS[name], small_variables(name), new_size)
    kept = [path for path, leaf in flat(resized).items() if leaf is original[path]]
    assert {path.partition("/attention/")[0] for path in kept if path.endswith(TABLES)} == fitting
    images = random_images(1, *new_size, 3)
    found = all_outputs(model)(resized, images)
    expected = oracle.network(images, resized, oracle_options(name))
    assert found.attention_maps.keys() == expected.attention_maps.keys()
    for name, maps in expected.attention_maps.items():
        scale = np.abs(maps).max()
        np.testing.assert_allclose(found.attention_maps[name], maps, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-5)


def test_a_new_head_is_drawn_from_the_key_and_everything_else_is_kept():
    variables, original = small_variables("resnet50"), SMALL_MODELS["resnet50"]
    before = flat(variables)
    original = original.clone(execution=PLAIN)
    draw = functools.partial(replace_head, original, variables, num_classes=9)
    model, changed = draw(rng=jax.random.key(4))
    assert model == original.clone(config=original.config.replace(num_classes=9))
    head = changed["params"]["head"]
    assert {leaf.dtype for leaf in jax.tree.leaves(head)} == {jnp.dtype(jnp.float32)}
    assert head["kernel"].std() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_array_equal(head["bias"], np.zeros(9))
    assert_same_arrays(changed, before | flat({"params": {"head": head}}))
    assert_same_arrays(variables, before)
    again, other = (draw(rng=jax.random.key(seed))[1]["params"]["head"] for seed in (4, 5))
    np.testing.assert_array_equal(again["kernel"], head["kernel"])
    assert np.abs(other["kernel"] - head["kernel"]).max() > 1e-3


@pytest.mark.parametrize("name", kinds())
def test_folding_leaves_no_norm_and_the_model_says_what_its_variables_are(name):
    variables = small_variables(name)
    original = flat(variables)
    model, folded = fold_batch_norm(SMALL_MODELS[name].clone(execution=PLAIN), variables)
    assert model.execution == PLAIN
    shapes = jax.eval_shape(model.init, jax.random.key(0), small_images(name))
    assert not [path for path in flat(shapes) if "norm" in path]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), folded) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )
    for path, leaf in flat(folded).items():
        if path.startswith("params/head/") or path.endswith(TABLES):
            assert leaf is original[path]
    assert_same_arrays(variables, original)
    again, same = fold_batch_norm(model, folded)
    assert again is model
    assert same is folded


@pytest.mark.usefixtures("as_users_have_it")
def test_a_folded_model_is_for_inference_alone():
    model, variables = fold_batch_norm(SMALL_MODELS[NAME], small_variables(NAME))
    with pytest.raises(ConfigError, match="folded batch norm cannot be trained"):
        model.apply(variables, small_images(NAME), train=True, mutable=["batch_stats"])
    saved = str(Path(__file__).parents[1] / "goldens" / "pretrained" / "folded")
    with pytest.raises(CheckpointError, match=r"folded are folded .* name the model that it was"):
        make_setup(RunConfig(variant=None, pretrained=saved))


def test_operations_commute_to_the_bit():
    steps = [
        fold_batch_norm,
        functools.partial(resize_relative_positions, image_size=(96, 80)),
        functools.partial(replace_head, num_classes=3, rng=jax.random.key(3)),
    ]
    start = SMALL_MODELS[NAME], small_variables(NAME)
    (model, first), (other, second) = (
        functools.reduce(lambda pair, step: step(*pair), order, start)
        for order in (steps, steps[::-1])
    )
    assert model == other
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_in_bfloat16_the_folded_model_is_as_near_to_float32_as_the_unfolded():
    variables, model = small_variables(NAME), SMALL_MODELS[NAME]
    half = model.clone(config=model.config.replace(dtype="bfloat16"))

    def features(model, variables):
        feature_maps = all_outputs(model)(variables, small_images(NAME)).feature_maps
        return np.asarray(feature_maps["c5"], np.float32)

    exact = features(model, variables)
    errors = [
        np.sqrt(np.mean((features(*each) - exact) ** 2))
        for each in ((half, variables), fold_batch_norm(half, variables))
    ]
    assert 0 < errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("batch_stats", "the variables have no batch_stats"),
        ("params/stem/layer_1/norm/scale", r"missing: params\.stem\.layer_1\.norm\.scale$"),
        (
            "batch_stats/c5/block_1/attention_norm",
            r"missing: batch_stats\.c5\.block_1\.attention_norm\.mean, .*attention_norm\.var$",
        ),
    ],
)
def test_folding_names_the_variables_it_lacks(missing, message):
    kept = {p: leaf for p, leaf in flat(small_variables(NAME)).items() if not p.startswith(missing)}
    with pytest.raises(ConfigError, match=message):
        fold_batch_norm(SMALL_MODELS[NAME], unflatten_dict(kept, sep="/"))


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
