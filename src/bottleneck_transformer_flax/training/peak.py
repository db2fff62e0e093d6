"""How fast the machine could be at most, to compare a run's speed with."""

import time
from typing import Any

import jax
import jax.numpy as jnp

_SIDES = {"cpu": 1024}
_SIDE = 8192
_TRIES = 4


def peak_operations(dtype: Any) -> float:
    """Floating point operations a second of one device in its fastest large matrix product.

    A product of (n, n) by (n, n) takes 2·n³ of them.
    """
    side = _SIDES.get(jax.default_backend(), _SIDE)
    matrix = jnp.full((side, side), 1 / side, dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)
