"""Random variables under which no mistake hides, and random images."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(shapes: Any, seed: int = 0) -> Any:
    """Float32 variables of these shapes: no zero scale, no trivial statistics.

    Their scale keeps activations near one, so that the outputs of different images differ.
    """
    random = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        name = path[-1].key
        if name == "var":
            value = np.exp(random.normal(0, 0.3, leaf.shape))
        elif name in ("mean", "bias"):
            value = random.normal(0, 0.2, leaf.shape)
        elif name == "scale":
            value = random.normal(0.8, 0.2, leaf.shape)
        elif name.startswith("relative"):
            value = random.normal(0, 1.0, leaf.shape)
        else:
            projection = path[-2].key in ("query", "key", "value")
            gain = 1.0 if projection else 1.4
            fan_in = leaf.shape[0] if projection else math.prod(leaf.shape[:-1])
            value = random.normal(0, gain * fan_in**-0.5, leaf.shape)
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_images(*shape: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
