"""The named models against what was published about them."""

import re

import jax
import jax.numpy as jnp
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.flops import count_multiply_adds, count_parameters
from bottleneck_transformer_flax.models.variants import (
    VARIANTS,
    find_variant,
    get_config,
    get_variant,
    list_variants,
)
from reference.small_models import NAMES, OWN, TIMM, kinds, variant_shapes
from reference.timm_networks import timm, timm_network

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
# Depth changes the count by whole blocks alone: the deep are traced among the slow tests.
TRACED = [
    pytest.param(name, marks=() if name in (*NAMES, "botnet_t5") else pytest.mark.slow)
    for name in VARIANTS
]


def test_the_names_are_the_papers_timms_and_our_own():
    assert sorted(list_variants()) == sorted([*PUBLISHED, *TIMM, *OWN])
    list_variants().clear()
    assert "botnet_t3" in list_variants()


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_are_as_published(name):
    variant = get_variant(name)
    config = variant.config
    kinds = "".join(map(config.block_kinds, range(4)))
    attends = kinds.endswith("A" * config.stage_sizes[3])
    row = (config.stage_sizes, variant.size, config.stride_one, config.se_ratio, config.activation)
    assert (*row, attends) == PUBLISHED[name]
    assert kinds.count("A") == attends * config.stage_sizes[3]
    plain = BoTNetConfig(stage_sizes=config.stage_sizes)
    for field in ("num_classes", "num_heads", "head_dim", "initial_filters", "bn_momentum"):
        assert getattr(config, field) == getattr(plain, field)
    assert (variant.name, config.dropout_rate, config.stochastic_depth_rate) == (name, 0, 0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if sum(variant.config.stage_sizes) > 30 else ())
        for name, variant in VARIANTS.items()
    ],
)
def test_the_rows_figures_are_those_of_timms_network_and_of_publications(name):
    variant = VARIANTS[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = timm_network(variant.config, variant.image_size)
        network(torch.zeros(1, 3, *variant.image_size))

    def parameters(*kinds):
        parts = [part for part in network.modules() if isinstance(part, kinds)]
        return sum(each.numel() for part in parts for each in part.parameters(recurse=False))

    assert parameters(torch.nn.Module) == variant.parameters
    without_norms = variant.parameters - parameters(torch.nn.BatchNorm2d)
    assert without_norms == WITHOUT_NORMS.get(name, without_norms)
    # In timm each query meets all offsets, 2h − 1 and 2w − 1; in ours only h rows and w columns.
    offsets = 0
    for layer in network.modules():
        if isinstance(layer, timm.layers.bottleneck_attn.BottleneckAttn):
            h, w = layer.pos_embed.height, layer.pos_embed.width
            offsets += h * w * layer.num_heads * layer.dim_head_qk * (h + w - 2)
    assert variant.multiply_adds == counter.get_total_flops() // 2 - offsets
    billions = variant.multiply_adds / 1e9
    assert billions == pytest.approx(BILLION_MULTIPLY_ADDS.get(name, billions), rel=0.01)


@pytest.mark.parametrize("name", TRACED)
def test_the_network_has_the_parameters_of_its_row_in_float32(name):
    shapes = variant_shapes(name)
    assert set(shapes) == {"params", "batch_stats"}
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    assert count_parameters(shapes) == VARIANTS[name].parameters


@pytest.mark.parametrize("name", kinds("botnet_t3", "botnet_small"))
def test_the_networks_multiply_adds_are_those_of_its_row_whatever_its_execution(name):
    variant = VARIANTS[name]
    model = BoTNet(config=variant.config, execution=Execution(attention_backend="blockwise"))
    assert count_multiply_adds(model, variant.image_size) == variant.multiply_adds


@pytest.mark.usefixtures("as_users_have_it")
def test_an_unknown_variant_suggests_the_nearest_and_lists_all():
    for typed, nearest in (("botnet_t33", "botnet_t3"), ("Resnet50", "resnet50")):
        with pytest.raises(ConfigError, match=f"'{typed}'; did you mean '{nearest}'") as error:
            get_config(typed)
        assert all(name in str(error.value) for name in list_variants())
    for name in (3, None, ["botnet_t3"]):
        with pytest.raises(ConfigError, match=rf"unknown variant {re.escape(repr(name))}; "):
            get_config(name)


def test_get_config_changes_what_is_asked_and_the_variant_is_still_found():
    config = get_config("botnet_t3", num_classes=10, dtype="bfloat16")
    assert (config.num_classes, config.dtype) == (10, jnp.bfloat16)
    assert config.replace(num_classes=1000, dtype="float32") == get_config("botnet_t3")
    assert find_variant(config) == get_variant("botnet_t3")
    assert find_variant(config.replace(num_heads=2)) is None
    with pytest.raises(ConfigError, match="'num_clases'; did you mean 'num_classes'"):
        get_config("botnet_t3", num_clases=10)
