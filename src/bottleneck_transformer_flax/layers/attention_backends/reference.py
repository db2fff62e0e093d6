"""Attention by its definition, with all weights in memory."""

import jax
from jax.ad_checkpoint import checkpoint_name

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.matrix_product import matmul_float32
from bottleneck_transformer_flax.layers.relative_position import relative_logits
from bottleneck_transformer_flax.layers.remat import SAVED


def attention_logits(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> tuple[Float[Array, "b n q k"], Float[Array, "b n q k"]]:
    """The content logits q·kᵀ and the position logits q·rᵀ, in float32.

    Args:
        query: queries, already scaled by d^-½, which scales both terms.
        key: keys.
        height_table: (2h − 1, d) embeddings of the row offset.
        width_table: (2w − 1, d) embeddings of the column offset.
    """
    content = matmul_float32(_heads_first(query), _heads_first(key).swapaxes(-1, -2))
    return content, relative_logits(query, height_table, width_table)


def attention_weights(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b n q k"]:
    """softmax(q·kᵀ + q·rᵀ) jointly over all h·w keys, in float32.

    See ``attention_logits`` for the arguments.
    """
    content, position = attention_logits(query, key, height_table, width_table)
    return jax.nn.softmax(checkpoint_name(content + position, SAVED), axis=-1)


def reference_attention(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    value: Float[Array, "b h w n v"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b h w n v"]:
    """``output[q] = Σ_k weights[q, k] · value[k]``, the attention of arXiv 2101.11605, figure 4.

    See ``attention_logits`` for the arguments.
    """
    b, h, w, n, v = value.shape
    weights = attention_weights(query, key, height_table, width_table).astype(value.dtype)
    output = weights @ _heads_first(value)
    return output.reshape(b, n, h, w, v).transpose(0, 2, 3, 1, 4)


def _heads_first(x: Float[Array, "b h w n d"]) -> Float[Array, "b n q d"]:
    """Heads before positions, so that each matrix of a product is contiguous."""
    b, h, w, n, d = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(b, n, h * w, d)
