"""Random variables under which nothing is hidden, and random images."""

import jax.numpy as jnp
import numpy as np

from bottleneck_transformer_flax.benchmarking.cases import random_variables

__all__ = ["random_images", "random_variables"]


def random_images(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
