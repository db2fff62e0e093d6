"""Attention as one call of a fused kernel that knows no relative positions."""

import jax
import jax.numpy as jnp
import numpy as np

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.relative_position import axis_logits

_HEAD_DIM_MULTIPLE = 8
_MAX_HEAD_DIM, _MAX_HEAD_DIM_ON_HOPPER = 128, 256
"""Limits of cuDNN's attention with gradients, on GPUs since Ampere."""


def fused_attention(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    value: Float[Array, "b h w n v"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b h w n v"]:
    """The function of ``reference_attention`` through ``jax.nn.dot_product_attention``.

    Each query is extended by its position logits for every row and every column, each key by the
    one-hot vectors of its row and its column, so that their product is the whole logit. In half
    precision the position logits are rounded once more than in the reference.

    cuDNN computes it where it can, on a GPU in half precision, otherwise XLA.
    """
    b, h, w, n, v = value.shape
    row_logits, column_logits = (
        logits.transpose(0, 2, 3, 1, 4).astype(query.dtype)
        for logits in axis_logits(query, height_table, width_table)
    )
    rows, columns = np.indices((h, w))
    one_hot = jnp.asarray(np.concatenate([np.eye(h)[rows], np.eye(w)[columns]], -1), key.dtype)
    one_hot = jnp.broadcast_to(one_hot[:, :, None], (b, h, w, n, h + w))
    head_dim = fused_head_dim(h, w, query.shape[-1], v)
    extended = (
        jnp.concatenate([query, row_logits, column_logits], axis=-1),
        jnp.concatenate([key, one_hot], axis=-1),
        value,
    )
    sequences = (
        jnp.pad(x, [(0, 0)] * 4 + [(0, head_dim - x.shape[-1])]).reshape(b, h * w, n, head_dim)
        for x in extended
    )
    # XLA's implementation promotes half precision to float32.
    with jax.numpy_dtype_promotion("standard"):
        output = jax.nn.dot_product_attention(
            *sequences,
            scale=1.0,
            implementation="cudnn" if head_dim <= max_fused_head_dim(query.dtype) else "xla",
        )
    return output[..., :v].reshape(b, h, w, n, v)


def fused_head_dim(h: int, w: int, query_key_dim: int, value_dim: int) -> int:
    """Head size of the kernel's queries, keys and values, on a grid of h·w positions."""
    needed = max(query_key_dim + h + w, value_dim)
    return -(-needed // _HEAD_DIM_MULTIPLE) * _HEAD_DIM_MULTIPLE


def max_fused_head_dim(dtype: jnp.dtype) -> int:
    """Largest head size that this machine has a fused kernel for; 0 for no kernel."""
    device = jax.local_devices()[0]
    if dtype not in (jnp.bfloat16, jnp.float16) or "cuda" not in device.client.platform_version:
        return 0
    generation = int(device.compute_capability.split(".")[0])
    if generation < 8:
        return 0
    return _MAX_HEAD_DIM_ON_HOPPER if generation == 9 else _MAX_HEAD_DIM
