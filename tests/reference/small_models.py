"""The variants as shapes, and every kind of model among them, small enough to compute."""

import functools

import jax
import jax.numpy as jnp
import pytest

from bottleneck_transformer_flax.models.botnet import BoTNet, Outputs
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.variants import VARIANTS
from reference.network import Options
from reference.variables import random_images, random_variables

TIMM = {
    "botnet26t_256": "relu",
    "sebotnet33ts_256": "silu",
    "botnet50ts_256": "silu",
    "eca_botnext26ts_256": "silu",
}
"""timm's variants and their activations."""
OWN = ("botnet_tiny", "botnet_small", "botnet11")
"""This project's variants, for small images."""
SMALL_STAGES = {"sebotnet33ts_256": (1, 3, 2, 2), "botnet11": (0, 1, 2, 2)}


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
"""One small model for each distinct network: variants that differ in depth and width are one."""
NAMES = list(SMALL_MODELS)


def kinds(*quick):
    """For ``parametrize``: all kinds; these, or else one of each family, are quick."""
    quick = quick or ("botnet50", "botnet_t3", "seresnet50", "botnet_tiny")
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def grid_stride(name):
    """Input pixels along each side for one position of c4."""
    config = SMALL_MODELS[name].config
    return config.total_stride // config.stage_strides[3]


def small_size(name):
    """An image size that no stride divides, with 3 × 5 positions in c4: odd where blocks stride."""
    stride = grid_stride(name)
    return 2 * stride + stride // 4 | 1, 4 * stride + stride // 5 | 1


def small_images(name, batch=2, seed=1):
    return random_images(batch, *small_size(name), 3, seed=seed)


@functools.cache
def small_variables(name, size=None, seed=0):
    """Random variables of a small model, by default for ``small_size``."""
    images = jnp.zeros((1, *(size or small_size(name)), 3))
    shapes = jax.eval_shape(SMALL_MODELS[name].init, jax.random.key(0), images)
    return random_variables(shapes, seed)


@functools.cache
def all_outputs(model):
    """(variables, images) → ``Outputs``, each from its own method; compiled once a size."""
    return jax.jit(
        lambda variables, images: Outputs(
            model.apply(variables, images),
            model.apply(variables, images, method="pooled_features"),
            model.apply(variables, images, method="feature_maps"),
            model.apply(variables, images, method="attention_maps"),
        )
    )


@functools.cache
def train_step(model):
    """(variables, images) → (loss, statistics), gradients of the parameters; compiled once."""

    def loss(params, variables, images):
        logits, state = model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(logits**2), state["batch_stats"]

    step = jax.value_and_grad(loss, has_aux=True)
    return jax.jit(lambda variables, images: step(variables["params"], variables, images))


@functools.cache
def variant_shapes(name):
    """The variables of a variant at its own size, as shapes: traced once for all tests."""
    variant = VARIANTS[name]
    return abstract_variables(BoTNet(config=variant.config), variant.image_size)


def oracle_options(name):
    """The kind by the paper's facts, not by its config, except for this project's own."""
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
