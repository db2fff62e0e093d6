"""Every kind of model among the variants, small enough to compute in a second."""

import functools

import jax
import jax.numpy as jnp
from reference.network import Options
from reference.variables import random_variables

from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.variants import VARIANTS


def _distinct_kinds():
    kinds = {}
    for name, variant in VARIANTS.items():
        small = variant.config.replace(
            stage_sizes=(1, 1, 1, 2), initial_filters=8, num_heads=2, head_dim=8, num_classes=5
        )
        kinds.setdefault(small, name)
    return {name: BoTNet(config=config) for config, name in kinds.items()}


SMALL_MODELS = _distinct_kinds()


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
def all_outputs(name):
    """(variables, images) → logits, feature maps, attention maps, compiled once a size."""
    apply = SMALL_MODELS[name].apply
    return jax.jit(
        lambda variables, images: (
            apply(variables, images),
            apply(variables, images, method="feature_maps"),
            apply(variables, images, method="attention_maps"),
        )
    )


def grid_stride(name):
    """Input pixels along each side for one position of c4."""
    return 4 if name == "botnet_tiny" else 16


def oracle_options(name):
    """What the paper's facts say of the kind, not what its config says."""
    scaled = name.startswith("botnet_t")
    halved = not (scaled or "_s1_" in name)
    return Options(
        activation="silu" if scaled else "relu",
        stem_stride=1 if name == "botnet_tiny" else 2,
        stem_pool=name != "botnet_tiny",
        strides=(1, 2, 2, 2 if halved else 1),
    )
