"""The paper's 2-D relative self-attention (arXiv 2101.11605, figure 4) in slow, obvious loops.

All in float64. ``q`` is scaled by d^-½ before both terms, the logit of a query at (i, j) and a key
at (k, m) is q·k + q·(r_height[k − i + H − 1] + r_width[m − j + W − 1]), the softmax is joint over
all H·W keys, and there is no output projection.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


def random_arguments(h, w, heads=2, head_dim=5, value_dim=None, batch=1, dtype=jnp.float32):
    """Scaled queries, keys, values and both tables, sharp enough that the weights differ."""
    random = np.random.default_rng(h * 100 + w)
    grid = (batch, h, w, heads)
    shapes = ((*grid, head_dim), (*grid, head_dim), (*grid, value_dim or head_dim))
    shapes += ((2 * h - 1, head_dim), (2 * w - 1, head_dim))
    return tuple(jnp.asarray(random.normal(size=shape), dtype) for shape in shapes)


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


class Maps(NamedTuple):
    """Each (b, n, h, w, h, w)."""

    weights: np.ndarray
    content_logits: np.ndarray
    position_logits: np.ndarray


def maps(query, key, height_table, width_table, position_query=None):
    """Attention maps of scaled queries and keys (b, h, w, n, d).

    The position term reads other queries where they are given.
    """
    query, key, height_table, width_table = as_float64(query, key, height_table, width_table)
    b, h, w, n, _ = query.shape
    position_query = query if position_query is None else position_query
    found = Maps(*(np.zeros((b, n, h, w, h, w)) for _ in range(3)))
    for image, head, i, j in np.ndindex(b, n, h, w):
        position = image, head, i, j
        for k, m in np.ndindex(h, w):
            offset = height_table[k - i + h - 1] + width_table[m - j + w - 1]
            found.content_logits[*position, k, m] = (
                query[image, i, j, head] @ key[image, k, m, head]
            )
            found.position_logits[*position, k, m] = position_query[image, i, j, head] @ offset
        logits = found.content_logits[position] + found.position_logits[position]
        found.weights[position] = softmax(logits)
    return found


def attend(query, key, value, height_table, width_table):
    """Scaled queries, keys and values (b, h, w, n, d) → (b, h, w, n, d)."""
    return mix(maps(query, key, height_table, width_table).weights, value)


def mix(shares, value):
    """Every query's sum of the values (b, h, w, n, d), each by its share."""
    (value,) = as_float64(value)
    output = np.zeros(value.shape)
    b, h, w, n, _ = value.shape
    for image, head, i, j in np.ndindex(b, n, h, w):
        for k, m in np.ndindex(h, w):
            output[image, i, j, head] += shares[image, head, i, j, k, m] * value[image, k, m, head]
    return output


def project(x, kernel):
    """A 1×1 projection (c, n, d) without bias: (b, h, w, c) → (b, h, w, n, d)."""
    x, kernel = as_float64(x, kernel)
    b, h, w, _ = x.shape
    output = np.zeros((b, h, w, *kernel.shape[1:]))
    for image, i, j in np.ndindex(b, h, w):
        for head in range(kernel.shape[1]):
            output[image, i, j, head] = x[image, i, j] @ kernel[:, head, :]
    return output


def self_attention_maps(x, parameters, *, scaled_positions=True):
    """The maps of the whole layer, from its parameters by name."""
    query, key = (project(x, parameters[name]["kernel"]) for name in ("query", "key"))
    scaled = query * query.shape[-1] ** -0.5
    tables = parameters["relative_height"], parameters["relative_width"]
    return maps(scaled, key, *tables, scaled if scaled_positions else query)


def self_attention(x, parameters, *, scaled_positions=True):
    """The whole layer, (b, h, w, c) → (b, h, w, n·d), from its parameters by name."""
    shares = self_attention_maps(x, parameters, scaled_positions=scaled_positions).weights
    output = mix(shares, project(x, parameters["value"]["kernel"]))
    return output.reshape(*output.shape[:3], -1)


def as_float64(*arrays):
    return tuple(np.asarray(array, np.float64) for array in arrays)
