"""Random variables under which nothing is hidden, and random images."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def random_variables(shapes: PyTree, seed: int = 0) -> PyTree:
    """Variables under which nothing is hidden: no zero scale, no trivial statistics.

    Args:
        shapes: of the variables, as ``abstract_variables`` gives them.
        seed: of the random numbers.

    Returns:
        The same tree of float32 arrays, of a scale that lets activations, and so images, differ.
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
