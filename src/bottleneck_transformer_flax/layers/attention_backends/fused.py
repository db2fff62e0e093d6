"""Attention as one call of a fused kernel that knows nothing of relative positions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.relative_position import axis_logits

_HEAD_MULTIPLE = 8
_LONGEST_HEAD, _LONGEST_HEAD_ON_HOPPER = 128, 256
"""Of cuDNN's attention with gradients, on GPUs since Ampere."""


def fused_attention(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    value: Float[Array, "b h w n v"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b h w n v"]:
    """The function of ``reference_attention`` through ``jax.nn.dot_product_attention``.

    Every query is lengthened by its position terms for each row and each column of keys, and every
    key by a one at its row and a one at its column, so that their product is the whole logit. In
    half precision the position terms are rounded once more than by the reference.

    cuDNN computes it on a GPU in half precision, otherwise XLA.
    """
    b, h, w, n, v = value.shape
    by_row, by_column = (
        term.transpose(0, 2, 3, 1, 4).astype(query.dtype)
        for term in axis_logits(query, height_table, width_table)
    )
    rows, columns = np.indices((h, w))
    ones = np.concatenate([np.eye(h)[rows], np.eye(w)[columns]], axis=-1)
    places = jnp.broadcast_to(jnp.asarray(ones, key.dtype)[:, :, None], (b, h, w, n, h + w))
    lengthened = (
        jnp.concatenate([query, by_row, by_column], axis=-1),
        jnp.concatenate([key, places], axis=-1),
        value,
    )
    size = fused_head_size(query.shape, v)
    sequences = (
        jnp.pad(x, [(0, 0)] * 4 + [(0, size - x.shape[-1])]).reshape(b, h * w, n, size)
        for x in lengthened
    )
    output = jax.nn.dot_product_attention(
        *sequences,
        scale=1.0,
        implementation="cudnn" if size <= longest_fused_head(query.dtype) else "xla",
    )
    return output[..., :v].reshape(b, h, w, n, v)


def fused_head_size(shape: tuple[Any, ...], value_size: int) -> int:
    """The size of one head of lengthened queries of a shape (b, h, w, n, d), and of the values."""
    _, h, w, _, d = shape
    return -(-max(d + h + w, value_size) // _HEAD_MULTIPLE) * _HEAD_MULTIPLE


def longest_fused_head(dtype: jnp.dtype) -> int:
    """The longest head that a fused kernel of this machine takes; 0 where there is none."""
    device = jax.local_devices()[0]
    if dtype not in (jnp.bfloat16, jnp.float16) or "cuda" not in device.client.platform_version:
        return 0
    generation = int(device.compute_capability.split(".")[0])
    if generation < 8:
        return 0
    return _LONGEST_HEAD_ON_HOPPER if generation == 9 else _LONGEST_HEAD
