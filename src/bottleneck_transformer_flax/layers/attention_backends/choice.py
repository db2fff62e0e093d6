"""The one attention function of this package, computed in one of several ways."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.export import is_symbolic_dim

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.attention_backends.blockwise import blockwise_attention
from bottleneck_transformer_flax.layers.attention_backends.fused import (
    fused_attention,
    fused_head_size,
    longest_fused_head,
)
from bottleneck_transformer_flax.layers.relative_position import relative_logits
from bottleneck_transformer_flax.layers.remat import KEPT

MANY_POSITIONS = 40 * 40
"""From here on gradients are as fast from weights computed again, in a fraction of the memory."""


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
    content = jnp.einsum(
        "bnqd,bnkd->bnqk", _by_head(query), _by_head(key), preferred_element_type=jnp.float32
    )
    position = relative_logits(query, height_table, width_table)
    return jax.nn.softmax(checkpoint_name(content + position, KEPT), axis=-1)


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
    output = weights @ _by_head(value)
    return output.reshape(b, n, h, w, v).transpose(0, 2, 3, 1, 4)


def _by_head(x: Float[Array, "b h w n d"]) -> Float[Array, "b n q d"]:
    """The heads before the positions, so that every product has its matrices in one piece."""
    b, h, w, n, d = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(b, n, h * w, d)


def fastest_attention(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    value: Float[Array, "b h w n v"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b h w n v"]:
    """The function of ``reference_attention``, by the fastest algorithm on this platform.

    Of algorithms that are as fast, the one that takes less memory; ``reference_attention`` where
    the batch size is symbolic.
    """
    b, h, w, _, _ = query.shape
    if is_symbolic_dim(b):
        function = reference_attention
    elif fused_head_size(query.shape, value.shape[-1]) <= longest_fused_head(query.dtype):
        function = fused_attention
    elif h * w >= MANY_POSITIONS:
        function = blockwise_attention
    elif jax.default_backend() == "cpu":
        function = _blockwise_until_differentiated
    else:
        function = reference_attention
    return function(query, key, value, height_table, width_table)


BACKENDS: dict[str, Callable[..., Array]] = {
    "auto": fastest_attention,
    "reference": reference_attention,
    "blockwise": blockwise_attention,
    "fused": fused_attention,
}
"""The same function: with all weights in memory, a block of them, or in one kernel of a GPU's."""


@jax.custom_vjp
def _blockwise_until_differentiated(
    query: Array, key: Array, value: Array, height_table: Array, width_table: Array
) -> Array:
    return blockwise_attention(query, key, value, height_table, width_table)


_blockwise_until_differentiated.defvjp(
    lambda *arrays: jax.vjp(reference_attention, *arrays), lambda pull, gradient: pull(gradient)
)
