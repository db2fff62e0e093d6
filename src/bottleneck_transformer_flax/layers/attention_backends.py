"""The one attention function of this package, computed in one of several ways."""

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.relative_position import relative_logits


def attention_weights(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b n q k"]:
    """softmax(q·kᵀ + q·rᵀ) jointly over all h·w keys, in float32.

    Args:
        query: queries, already scaled by d^-½: the scale is on both terms.
        key: keys.
        height_table: (2h − 1, d) embeddings of the row offset.
        width_table: (2w − 1, d) embeddings of the column offset.
    """
    b, h, w, n, _ = query.shape
    content = jnp.einsum("bhwnd,bklnd->bnhwkl", query, key, preferred_element_type=jnp.float32)
    position = relative_logits(query, height_table, width_table)
    return jax.nn.softmax(content.reshape(b, n, h * w, h * w) + position, axis=-1)


def reference_attention(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    value: Float[Array, "b h w n v"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b h w n v"]:
    """Attention over all positions with the whole (q, k) matrix in memory.

    ``output[q] = Σ_k weights[q, k] · value[k]``; see ``attention_weights`` for the arguments.
    """
    b, h, w, n, v = value.shape
    weights = attention_weights(query, key, height_table, width_table).astype(value.dtype)
    output = jnp.einsum("bnqk,bknv->bqnv", weights, value.reshape(b, h * w, n, v))
    return output.reshape(b, h, w, n, v)
