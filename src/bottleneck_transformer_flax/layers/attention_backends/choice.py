"""The attention backends by name, and the choice of the fastest."""

from collections.abc import Callable

import jax
from jax.export import is_symbolic_dim

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.attention_backends.blockwise import blockwise_attention
from bottleneck_transformer_flax.layers.attention_backends.fused import (
    fused_attention,
    fused_head_dim,
    max_fused_head_dim,
)
from bottleneck_transformer_flax.layers.attention_backends.reference import reference_attention

MANY_POSITIONS = 40 * 40
"""Positions from which recomputing the weights costs no time, and saves most of the memory."""


def fastest_attention(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    value: Float[Array, "b h w n v"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b h w n v"]:
    """The function of ``reference_attention``, by the backend that is fastest on this platform.

    Where two are equally fast, it takes the one that needs less memory; where the batch size is
    symbolic, it takes the reference.
    """
    b, h, w, _, d = query.shape
    if is_symbolic_dim(b):
        function = reference_attention
    elif fused_head_dim(h, w, d, value.shape[-1]) <= max_fused_head_dim(query.dtype):
        function = fused_attention
    elif h * w >= MANY_POSITIONS:
        function = blockwise_attention
    elif jax.default_backend() == "cpu":
        function = _blockwise_with_reference_gradients
    else:
        function = reference_attention
    return function(query, key, value, height_table, width_table)


BACKENDS: dict[str, Callable[..., Array]] = {
    "auto": fastest_attention,
    "reference": reference_attention,
    "blockwise": blockwise_attention,
    "fused": fused_attention,
}
"""Backends of one function; all take the arguments of ``reference_attention``."""


@jax.custom_vjp
def _blockwise_with_reference_gradients(
    query: Array, key: Array, value: Array, height_table: Array, width_table: Array
) -> Array:
    """Blockwise in inference; in training the reference, which keeps the weights."""
    return blockwise_attention(query, key, value, height_table, width_table)


_blockwise_with_reference_gradients.defvjp(
    lambda *arrays: jax.vjp(reference_attention, *arrays), lambda pull, gradient: pull(gradient)
)
