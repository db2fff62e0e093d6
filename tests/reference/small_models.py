"""The variants as shapes, and every kind of model among them, small enough to compute."""

import functools

import jax
import jax.numpy as jnp
import pytest

from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.variants import VARIANTS
from reference.network import Options
from reference.variables import random_variables

TIMM = {
    "botnet26t_256": "relu",
    "sebotnet33ts_256": "silu",
    "botnet50ts_256": "silu",
    "eca_botnext26ts_256": "silu",
}
"""timm's variants and their activations."""
OWN = ("botnet_tiny", "botnet_small")
"""This project's variants, for small images."""
SLOW = (*TIMM, "botnet_small")
SMALL_STAGES = {"sebotnet33ts_256": (1, 3, 2, 2)}


def _distinct_kinds():
    kinds = {}
    for name, variant in VARIANTS.items():
        config = variant.config
        small = config.replace(
            stage_sizes=SMALL_STAGES.get(name, (1, 2, 2, 2) if name in TIMM else (1, 1, 1, 2)),
            initial_filters=8,
            num_heads=2,
            head_dim=config.head_dim and 8,
            query_key_dim=config.query_key_dim and 4,
            group_size=config.group_size and 4,
            final_channels=config.final_channels and 24,
            num_classes=5,
        )
        kinds.setdefault(small, name)
    return {name: BoTNet(config=config) for config, name in kinds.items()}


SMALL_MODELS = _distinct_kinds()


def kinds(*names):
    """For ``parametrize``: these kinds, or all.

    Slow are timm's, which have a proof of their own, and the second of this project's.
    """
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in names or SMALL_MODELS
    ]


@functools.cache
def small_variables(name, height, width, seed=0):
    """Random variables of a small model for images of a size."""
    images = jnp.zeros((1, height, width, 3))
    shapes = jax.eval_shape(SMALL_MODELS[name].init, jax.random.key(0), images)
    return random_variables(shapes, seed)


@functools.cache
def apply(name, method="__call__"):
    """One compiled function for each model and method, shared by all tests."""
    return jax.jit(functools.partial(SMALL_MODELS[name].apply, method=method))


@functools.cache
def all_outputs(name, model=None):
    """(variables, images) → logits, feature maps, attention maps, compiled once a size."""
    apply = (model or SMALL_MODELS[name]).apply
    return jax.jit(
        lambda variables, images: (
            apply(variables, images),
            apply(variables, images, method="feature_maps"),
            apply(variables, images, method="attention_maps"),
        )
    )


@functools.cache
def variant_shapes(name):
    """The variables of a variant at its own size, as shapes: traced once for all tests."""
    variant = VARIANTS[name]
    return abstract_variables(BoTNet(config=variant.config), variant.image_size)


def grid_stride(name):
    """Input pixels along each side for one position of c4."""
    return 4 * stem_stride(name)


def stem_stride(name):
    """By how much the stem reduces the resolution: 4, but for this project's own."""
    if name not in OWN:
        return 4
    config = VARIANTS[name].config
    return {"7x7": 2, "3x3": 1}[config.stem] * (2 if config.stem_pool else 1)


def oracle_options(name):
    """What the paper's facts say of the kind, not what its config says; two are our own."""
    if name in OWN:
        config = VARIANTS[name].config
        return Options(
            activation=config.activation,
            shortcut_activation=config.attention_shortcut_activation,
            stem_strides=({"7x7": 2, "3x3": 1}[config.stem],),
            stem_pool=config.stem_pool,
            strides=(1, 2, 2, 1 if config.stride_one else 2),
        )
    if name in TIMM:
        pooled = name != "sebotnet33ts_256"
        return Options(
            activation=TIMM[name],
            shortcut_activation=False,
            stem_strides=(2, 1, 1) if pooled else (2, 1, 2),
            stem_pool=pooled,
            strides=(1, 2, 2, 2),
            scaled_positions=False,
            channels_scaled_in_the_middle=True,
            squeeze_excite_activation="relu",
        )
    scaled = name.startswith("botnet_t")
    halved = not (scaled or "_s1_" in name)
    return Options(activation="silu" if scaled else "relu", strides=(1, 2, 2, 2 if halved else 1))
