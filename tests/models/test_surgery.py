"""Another resolution, another head: the same network, and proof that it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.surgery import replace_head, resize_relative_positions
from reference import network as oracle
from reference.small_models import (
    SMALL_MODELS,
    TIMM,
    all_outputs,
    grid_stride,
    kinds,
    oracle_options,
    small_variables,
)
from reference.variables import random_images

ATTENTION_KINDS = kinds(*(name for name in SMALL_MODELS if "botne" in name))
TABLES = ("relative_height", "relative_width")


def size_of(name, rows, columns):
    """The image whose c4 has rows × columns positions."""
    return rows * grid_stride(name), columns * grid_stride(name)


def flat(variables):
    return flatten_dict(variables, sep="/")


@pytest.mark.parametrize("name", kinds())
def test_the_same_size_leaves_every_array_as_it_is(name):
    size = size_of(name, 3, 5)
    variables = small_variables(name, *size)
    model, same = resize_relative_positions(SMALL_MODELS[name], variables, size)
    assert model == SMALL_MODELS[name]
    before, after = flat(variables), flat(same)
    assert before.keys() == after.keys()
    assert all(after[path] is leaf for path, leaf in before.items())


@pytest.mark.parametrize("name", ["resnet50", "seresnet50"])
def test_a_network_without_attention_is_left_alone(name):
    variables = small_variables(name, *size_of(name, 3, 5))
    model, same = resize_relative_positions(SMALL_MODELS[name], variables, size_of(name, 7, 2))
    assert model == SMALL_MODELS[name]
    assert all(flat(same)[path] is leaf for path, leaf in flat(variables).items())


@pytest.mark.parametrize("name", ATTENTION_KINDS)
def test_resizing_changes_the_tables_alone_and_not_the_original(name):
    variables = small_variables(name, *size_of(name, 3, 5))
    copies = {path: np.array(leaf) for path, leaf in flat(variables).items()}
    _, resized = resize_relative_positions(SMALL_MODELS[name], variables, size_of(name, 6, 4))
    for path, leaf in flat(resized).items():
        if path.endswith(TABLES):
            halves = name == "botnet50" or name in TIMM
            halved = halves and path.startswith("params/c5/block_2")
            rows, columns = (3, 2) if halved else (12, 8) if "/c3/" in path else (6, 4)
            length = rows if path.endswith("height") else columns
            assert leaf.shape == (2 * length - 1, flat(variables)[path].shape[1]), path
        else:
            assert leaf is flat(variables)[path], path
    for path, leaf in flat(variables).items():
        np.testing.assert_array_equal(leaf, copies[path], err_msg=path)


def with_tables(variables, make):
    """The variables with every table replaced by make(path, its number of rows, d)."""
    params = flat(variables["params"])
    for path, leaf in params.items():
        if path.endswith(TABLES):
            params[path] = jnp.asarray(make(path, *leaf.shape), jnp.float32)
    return variables | {"params": unflatten_dict(params, sep="/")}


@pytest.mark.parametrize("name", ATTENTION_KINDS)
@pytest.mark.parametrize("grid", [(6, 3), (2, 7)])
def test_with_linear_tables_the_resized_network_is_known_exactly(name, grid):
    """Tables linear in the offset: the new ones are the same line from end to end."""

    def line(path, rows, d):
        seed = sum(map(ord, path))
        end, constant = np.random.default_rng(seed).normal(size=(2, d))
        along = np.linspace(-1, 1, rows) if rows > 1 else np.zeros(1)
        return along[:, None] * end + constant

    size, new_size = size_of(name, 3, 5), size_of(name, *grid)
    trained = with_tables(small_variables(name, *size), line)
    model, resized = resize_relative_positions(SMALL_MODELS[name], trained, new_size)
    images = random_images(1, *new_size, 3)
    logits, _, attention = all_outputs(name)(resized, images)
    known = with_tables(resized, line)
    expected = oracle.network(images, known, oracle_options(name))
    assert model == SMALL_MODELS[name]
    assert attention.keys() == expected.attention_maps.keys()
    for block, weights in attention.items():
        np.testing.assert_allclose(weights, expected.attention_maps[block], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits, expected.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["botnet_t3", "botnet_tiny"])
def test_there_and_back_is_exact_where_the_finer_grid_holds_the_coarser(name):
    size, finer = size_of(name, 3, 5), size_of(name, 5, 9)
    variables = small_variables(name, *size)
    there = resize_relative_positions(SMALL_MODELS[name], variables, finer)
    _, back = resize_relative_positions(*there, size)
    for path, leaf in flat(variables).items():
        np.testing.assert_array_equal(flat(back)[path], leaf, err_msg=path)


def test_a_size_the_network_cannot_read_is_an_error():
    name = "botnet_t3"
    variables = small_variables(name, *size_of(name, 3, 5))
    with pytest.raises(ConfigError, match=r"8 × 64.*at least 16"):
        resize_relative_positions(SMALL_MODELS[name], variables, (8, 64))


@pytest.mark.parametrize("name", ["botnet_t3", "resnet50"])
def test_a_new_head_reads_the_same_features(name):
    size = size_of(name, 3, 5)
    variables = small_variables(name, *size)
    copies = {path: np.array(leaf) for path, leaf in flat(variables).items()}
    original = SMALL_MODELS[name]
    model, changed = replace_head(original, variables, num_classes=9, rng=jax.random.key(4))

    assert model.config == original.config.replace(num_classes=9)
    assert original.config.num_classes == 5
    kernel, bias = changed["params"]["head"]["kernel"], changed["params"]["head"]["bias"]
    assert (kernel.shape, bias.shape) == ((256, 9), (9,))
    assert kernel.dtype == bias.dtype == jnp.float32
    assert kernel.std() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_array_equal(bias, 0)
    for path, leaf in flat(changed).items():
        assert path.startswith("params/head/") or leaf is flat(variables)[path], path
    assert flat(changed).keys() == copies.keys()
    for path, leaf in flat(variables).items():
        np.testing.assert_array_equal(leaf, copies[path], err_msg=path)

    images = random_images(2, *size, 3)
    changed["params"]["head"]["bias"] = bias = jnp.arange(9, dtype=jnp.float32)
    logits, features = jax.jit(
        lambda v, x: (model.apply(v, x), model.apply(v, x, method="feature_maps"))
    )(changed, images)
    _, before, _ = all_outputs(name)(variables, images)
    for stage, feature_map in features.items():
        np.testing.assert_allclose(feature_map, before[stage], rtol=0, atol=1e-6, err_msg=stage)
    pooled = np.asarray(before["c5"], np.float64).mean(axis=(1, 2))
    expected = pooled @ np.asarray(kernel, np.float64) + np.asarray(bias)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_features_under_a_new_head_are_bit_for_bit_the_same():
    name = "botnet_tiny"
    size = size_of(name, 3, 5)
    variables = small_variables(name, *size)
    key = jax.random.key(0)
    model, changed = replace_head(SMALL_MODELS[name], variables, num_classes=3, rng=key)
    images = random_images(1, *size, 3)
    before = SMALL_MODELS[name].apply(variables, images, method="feature_maps")
    after = model.apply(changed, images, method="feature_maps")
    for stage, feature_map in before.items():
        np.testing.assert_array_equal(after[stage], feature_map)


def test_a_head_depends_on_its_key():
    name = "botnet_tiny"
    variables = small_variables(name, *size_of(name, 2, 3))
    heads = [
        np.asarray(
            replace_head(SMALL_MODELS[name], variables, num_classes=4, rng=jax.random.key(seed))[1][
                "params"
            ]["head"]["kernel"]
        )
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert np.abs(heads[0] - heads[2]).max() > 1e-3


@pytest.mark.parametrize("num_classes", [0, -3])
def test_a_head_without_classes_is_an_error(num_classes):
    name = "botnet_tiny"
    variables = small_variables(name, *size_of(name, 2, 3))
    with pytest.raises(ConfigError, match=rf"num_classes is {num_classes}.*at least 1"):
        replace_head(SMALL_MODELS[name], variables, num_classes=num_classes, rng=jax.random.key(0))


@pytest.mark.usefixtures("as_users_have_it")
def test_arguments_that_are_none_of_it_are_told():
    model, variables = SMALL_MODELS["botnet_t3"], small_variables("botnet_t3", 48, 80)
    with pytest.raises(ConfigError, match="image size is 64; expected"):
        resize_relative_positions(model, variables, 64)
    with pytest.raises(ConfigError, match=r"no params \(given: \['c2', "):
        resize_relative_positions(model, variables["params"], (48, 80))
    with pytest.raises(ConfigError, match=r"no params \(given: NoneType\)"):
        resize_relative_positions(model, None, (48, 80))
    with pytest.raises(ConfigError, match=r"hold c5.block_1.*relative_.*, but the model has no"):
        resize_relative_positions(SMALL_MODELS["resnet50"], variables, (48, 80))
    with pytest.raises(ConfigError, match="no head to replace; they hold c2"):
        replace_head(model, {"params": {"c2": {}}}, num_classes=3, rng=jax.random.key(0))
    with pytest.raises(ConfigError, match=r"no params \(given: \[\]\)"):
        replace_head(model, {}, num_classes=3, rng=jax.random.key(0))
