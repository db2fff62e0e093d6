"""The named models against what was published about them."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import (
    abstract_variables,
    count_multiply_adds,
    count_parameters,
)
from bottleneck_transformer_flax.models.variants import (
    VARIANTS,
    get_config,
    get_variant,
    list_variants,
)
from reference import counts
from reference.small_models import OWN, stem_stride, variant_shapes

# name: stage sizes, image size, c5 has stride 1, SE ratio, activation, attention in c5
PUBLISHED = {
    "botnet50": ((3, 4, 6, 3), 224, False, 0, "relu", True),
    "botnet101": ((3, 4, 23, 3), 224, False, 0, "relu", True),
    "botnet152": ((3, 8, 36, 3), 224, False, 0, "relu", True),
    "botnet200": ((3, 24, 36, 3), 224, False, 0, "relu", True),
    "botnet_s1_50": ((3, 4, 6, 3), 224, True, 0, "relu", True),
    "botnet_t3": ((3, 4, 6, 6), 224, True, 1 / 16, "silu", True),
    "botnet_t4": ((3, 4, 23, 6), 224, True, 1 / 16, "silu", True),
    "botnet_t5": ((3, 4, 23, 12), 256, True, 1 / 16, "silu", True),
    "botnet_t6": ((3, 4, 6, 12), 320, True, 1 / 16, "silu", True),
    "botnet_t7": ((3, 4, 23, 12), 384, True, 1 / 16, "silu", True),
    "resnet50": ((3, 4, 6, 3), 224, False, 0, "relu", False),
    "resnet101": ((3, 4, 23, 3), 224, False, 0, "relu", False),
    "resnet152": ((3, 8, 36, 3), 224, False, 0, "relu", False),
    "seresnet50": ((3, 4, 6, 3), 224, False, 1 / 16, "relu", False),
    "seresnet101": ((3, 4, 23, 3), 224, False, 1 / 16, "relu", False),
    "seresnet152": ((3, 8, 36, 3), 224, False, 1 / 16, "relu", False),
}
# Kinds of blocks, channels that the stages give out (timm's byoanet.py).
TIMM = {
    "botnet26t_256": (("CC", "CC", "CA", "AA"), (256, 512, 1024, 2048)),
    "sebotnet33ts_256": (("CC", "CCA", "CCA", "AA"), (256, 512, 1024, 1536)),
    "botnet50ts_256": (("CCC", "CCCA", "CACACA", "CAC"), (256, 512, 1024, 2048)),
    "eca_botnext26ts_256": (("CC", "CC", "CA", "AA"), (256, 512, 1024, 2048)),
}
PARAMETERS = {
    "botnet26t_256": 12_488_672,
    "sebotnet33ts_256": 13_701_984,
    "botnet50ts_256": 22_742_688,
    "eca_botnext26ts_256": 10_593_301,
    "botnet50": 20_852_008,
    "botnet101": 39_844_136,
    "botnet_s1_50": 20_859_176,
    "botnet_t3": 30_500_696,
    "botnet_t4": 51_739_544,
    "botnet_t5": 69_131_672,
    "botnet_t6": 47_917_400,
    "botnet_t7": 69_180_824,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
WITHOUT_NORMS = {
    "botnet_t3": 30_429_144,
    "botnet_t4": 51_615_768,
    "botnet_t5": 68_971_032,
    "botnet_t6": 47_808_984,
    "botnet_t7": 69_020_184,
}
BILLION_MULTIPLY_ADDS = {
    "botnet_t3": 7.25,
    "botnet_t4": 10.96,
    "botnet_t5": 19.30,
    "botnet_t6": 23.32,
    "botnet_t7": 45.79,
    "resnet50": 4.09,
    "botnet50": 4.02,
    "botnet_s1_50": 5.42,
}


def test_the_names_are_the_papers_timms_and_our_own():
    assert sorted(list_variants()) == sorted([*PUBLISHED, *TIMM, *OWN])


@pytest.mark.parametrize("name", TIMM)
def test_timm_s_rows_are_timm_s(name):
    kinds, channels = TIMM[name]
    variant = get_variant(name)
    assert variant.image_size == (256, 256)
    assert tuple(variant.config.block_kinds(stage) for stage in range(4)) == kinds
    assert tuple(variant.config.out_channels(stage) for stage in range(4)) == channels


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_are_as_published(name):
    stage_sizes, size, stride_one, se_ratio, activation, attention = PUBLISHED[name]
    variant = get_variant(name)
    config = variant.config
    assert variant.name == name
    assert variant.source
    assert variant.image_size == (size, size)
    assert config.stage_sizes == stage_sizes
    assert config.stride_one == stride_one
    assert config.se_ratio == se_ratio
    assert config.activation == activation
    assert config.num_classes == 1000
    assert (config.num_heads, config.head_dim, config.initial_filters) == (4, 128, 64)
    assert (config.bn_momentum, config.bn_epsilon) == (0.9, 1e-5)
    assert (config.dropout_rate, config.stochastic_depth_rate) == (0, 0)
    for stage in range(4):
        kind = "A" if attention and stage == 3 else "C"
        assert config.block_kinds(stage) == kind * stage_sizes[stage]
    assert get_config(name) == config


@pytest.mark.parametrize("name", list_variants())
def test_parameter_count(name):
    variant = VARIANTS[name]
    count = count_parameters(variant_shapes(name))
    assert count == counts.network(variant.config, *variant.image_size).parameters
    assert count == PARAMETERS.get(name, count)
    assert variant.parameters == count, "the row's own figure"


@pytest.mark.parametrize("name", list_variants())
def test_the_rows_multiply_adds(name):
    variant = VARIANTS[name]
    cost = counts.network(variant.config, *variant.image_size)
    assert variant.multiply_adds == pytest.approx(cost.multiply_adds, rel=1e-3)


@pytest.mark.parametrize("name", WITHOUT_NORMS)
def test_parameter_count_without_norms(name):
    params = flatten_dict(variant_shapes(name)["params"])
    norms = [leaf for path, leaf in params.items() if path[-2].endswith("norm")]
    count = count_parameters(variant_shapes(name)) - sum(math.prod(leaf.shape) for leaf in norms)
    assert count == WITHOUT_NORMS[name]
    variant = VARIANTS[name]
    cost = counts.network(variant.config, *variant.image_size)
    assert count == cost.parameters - cost.norm_parameters


@pytest.mark.parametrize("name", [*BILLION_MULTIPLY_ADDS, *OWN])
def test_multiply_adds(name):
    variant = VARIANTS[name]
    count = count_multiply_adds(BoTNet(config=variant.config), variant.image_size)
    expected = counts.network(variant.config, *variant.image_size).multiply_adds
    print(f"{name}: {count / 1e9:.3f} B multiply-adds, by arithmetic {expected / 1e9:.3f}")
    assert count == pytest.approx(expected, rel=1e-3)
    if name in BILLION_MULTIPLY_ADDS:
        assert count / 1e9 == pytest.approx(BILLION_MULTIPLY_ADDS[name], rel=0.01)


@pytest.mark.parametrize("name", list_variants())
def test_all_variables_are_float32(name):
    for variables in (variant_shapes(name), two_block_shapes(two_blocks(name))[0]):
        assert set(variables) == {"params", "batch_stats"}
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


IMAGE_SIZE = (96, 160)


def two_blocks(name):
    """The variant in bfloat16 with at most two blocks a stage: depth changes no shape."""
    config = VARIANTS[name].config
    sizes = tuple(min(2, size) for size in config.stage_sizes)
    return config.replace(stage_sizes=sizes, dtype="bfloat16")


@functools.cache
def two_block_shapes(config):
    """Variables, logits, feature maps and attention maps; once for variants that share them."""
    model = BoTNet(config=config)
    variables = abstract_variables(model, IMAGE_SIZE)
    images = jax.ShapeDtypeStruct((2, *IMAGE_SIZE, 3), jnp.float32)
    outputs = jax.eval_shape(
        lambda v, x: (
            model.apply(v, x),
            model.apply(v, x, method="feature_maps"),
            model.apply(v, x, method="attention_maps"),
        ),
        variables,
        images,
    )
    return variables, *outputs


@pytest.mark.parametrize("name", list_variants())
def test_shapes_of_all_outputs(name):
    config = two_blocks(name)
    _, logits, maps, attention = two_block_shapes(config)
    assert (logits.shape, logits.dtype) == ((2, config.num_classes), jnp.float32)

    strides = [stem_stride(name) * factor for factor in (1, 2, 4, 4)]
    strides[3] *= 1 if "_s1_" in name or "_t" in name or name in OWN else 2
    assert list(maps) == ["c2", "c3", "c4", "c5"]
    for index, (stride, feature_map) in enumerate(zip(strides, maps.values(), strict=True)):
        height, width = (math.ceil(side / stride) for side in IMAGE_SIZE)
        channels = TIMM[name][1][index] if name in TIMM else config.out_channels(index)
        assert feature_map.shape == (2, height, width, channels)
        assert feature_map.dtype == jnp.bfloat16

    if "resnet" in name:
        assert attention == {}
        return
    blocks, grids = [], []
    for stage in range(4):
        for index, kind in enumerate(config.block_kinds(stage)):
            if kind == "A":
                blocks.append(f"c{stage + 2}/block_{index + 1}")
                grids.append(strides[stage - 1 if index == 0 else stage])
    assert list(attention) == blocks
    for stride, weights in zip(grids, attention.values(), strict=True):
        grid = tuple(math.ceil(side / stride) for side in IMAGE_SIZE)
        assert weights.shape == (2, 4, *grid, *grid)
        assert weights.dtype == jnp.float32


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("botnet_t33", "botnet_t3"), ("bonet50", "botnet50"), ("Resnet50", "resnet50")],
)
@pytest.mark.parametrize("function", [get_config, get_variant])
def test_an_unknown_variant_suggests_the_nearest(function, typed, nearest):
    with pytest.raises(ConfigError) as error:
        function(typed)
    assert repr(typed) in str(error.value)
    assert f"did you mean {nearest!r}?" in str(error.value)
    assert all(name in str(error.value) for name in list_variants())


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("name", [3, None, ["botnet_t3"]])
def test_what_is_no_name_is_an_unknown_variant(name):
    with pytest.raises(ConfigError, match=rf"unknown variant {re.escape(repr(name))}; .*botnet_t3"):
        get_config(name)


def test_an_unknown_field_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'num_classes'") as error:
        get_config("botnet_t3", num_clases=10)
    assert "'num_clases'" in str(error.value)


def test_get_config_changes_what_is_asked_and_nothing_else():
    config = get_config("botnet_t3", num_classes=10, dtype="bfloat16")
    assert config.num_classes == 10
    assert config.dtype == jnp.bfloat16
    assert config.replace(num_classes=1000, dtype="float32") == get_config("botnet_t3")


def test_the_list_of_variants_is_the_callers_own():
    list_variants().clear()
    assert "botnet_t3" in list_variants()
