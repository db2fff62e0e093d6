"""Attention by blocks of queries, in memory linear in the positions.

The weights of one head's block over all keys are computed, used and dropped; gradients compute
them again from what the softmax divided by (as in FlashAttention, arXiv 2205.14135). A block holds
whole rows of the weights, so its softmax is the plain one and nothing is rescaled.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.export import is_symbolic_dim

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.remat import KEPT

_WEIGHTS_AT_ONCE = 2**21
"""Of a block, or of several heads together: 8 MB in float32. Fewer at once are slower."""

Residuals = tuple[Array, ...]


@jax.custom_vjp
def blockwise_attention(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    value: Float[Array, "b h w n v"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b h w n v"]:
    """The function of ``reference_attention``, in reverse-mode differentiation too."""
    return _forward(query, key, value, height_table, width_table)[0]


def _forward(
    query: Array, key: Array, value: Array, height_table: Array, width_table: Array
) -> tuple[Array, Residuals]:
    _, h, w, _, _ = query.shape

    def of_head(arrays: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        q, k, v = arrays

        def of_block(block: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            logits = _logits(k, *block)
            largest = jnp.max(logits, axis=-1, keepdims=True)
            weights = jnp.exp(logits - largest)
            total = jnp.sum(weights, axis=-1, keepdims=True)
            mixed = _product("qk,kv->qv", weights.astype(v.dtype), v) / total
            return mixed.astype(v.dtype), (largest + jnp.log(total))[:, 0]

        by_row, by_column = _position_terms(q, height_table, width_table, h=h, w=w)
        blocks = tuple(_blocks(x) for x in (q, by_row, by_column))
        output, log_total = jax.lax.map(of_block, blocks)
        return _joined(output, h * w), _joined(log_total, h * w)

    output, log_total = _over_heads(of_head, tuple(map(_heads, (query, key, value))), h * w)
    output, log_total = (checkpoint_name(x, KEPT) for x in (_grid(output, query), log_total))
    return output, (query, key, value, height_table, width_table, output, log_total)


def _backward(residuals: Residuals, output_gradient: Array) -> Residuals:
    query, key, value, height_table, width_table, output, log_total = residuals
    _, h, w, _, _ = query.shape

    def of_head(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        q, k, v, o, do, log_total = arrays

        def of_block(sums: tuple[Array, Array], block: Any) -> tuple[Any, Any]:
            dk, dv = sums
            q, by_row, by_column, log_total, do, o_do = block
            weights = jnp.exp(_logits(k, q, by_row, by_column) - log_total[:, None])
            dlogits = weights * (_product("qv,kv->qk", do, v) - o_do[:, None])
            on_grid = dlogits.reshape(-1, h, w)
            rounded = dlogits.astype(q.dtype)
            # As products that give (size, keys): the other way round takes twice the time.
            dk += _product("qd,qk->dk", q, rounded)
            dv += _product("qv,qk->vk", do, weights.astype(do.dtype))
            dq = _product("qk,kd->qd", rounded, k)
            return (dk, dv), (dq, jnp.sum(on_grid, axis=2), jnp.sum(on_grid, axis=1))

        (by_row, by_column), positions_gradient = jax.vjp(
            lambda *arguments: _position_terms(*arguments, h=h, w=w), q, height_table, width_table
        )
        o_do = jnp.sum(o.astype(jnp.float32) * do.astype(jnp.float32), axis=-1)
        sums = (jnp.zeros(k.T.shape, jnp.float32), jnp.zeros(v.T.shape, jnp.float32))
        blocks = tuple(_blocks(x) for x in (q, by_row, by_column, log_total, do, o_do))
        (dk, dv), of_blocks = jax.lax.scan(of_block, sums, blocks)
        dq, dby_row, dby_column = (_joined(x, h * w) for x in of_blocks)
        dq_position, dheight, dwidth = positions_gradient((dby_row, dby_column))
        dq += dq_position.astype(jnp.float32)
        return dq.astype(q.dtype), dk.T.astype(k.dtype), dv.T.astype(v.dtype), dheight, dwidth

    arrays = (*map(_heads, (query, key, value, output, output_gradient)), log_total)
    *by_head, dheight, dwidth = _over_heads(of_head, arrays, h * w)
    dquery, dkey, dvalue = (_grid(x, query) for x in by_head)
    return dquery, dkey, dvalue, jnp.sum(dheight, axis=0), jnp.sum(dwidth, axis=0)


blockwise_attention.defvjp(_forward, _backward)


def _position_terms(
    q: Float[Array, "q d"], height_table: Array, width_table: Array, *, h: int, w: int
) -> tuple[Float[Array, "q h"], Float[Array, "q w"]]:
    """The position logits by the row of the key, and by its column.

    Each query is multiplied by every offset's embedding, half of them needlessly: one product for
    all queries is faster than one for each row or column of them.
    """
    by_row, by_column = (
        _product("hwd,rd->hwr", q.reshape(h, w, -1), table) for table in (height_table, width_table)
    )
    by_row = jnp.swapaxes(_of_keys(jnp.swapaxes(by_row, 0, 1)), 0, 1)
    return by_row.reshape(h * w, h), _of_keys(by_column).reshape(h * w, w)


def _of_keys(of_offsets: Float[Array, "others length rows"]) -> Float[Array, "others length k"]:
    """From every offset to every key: the last L offsets of the first query, one earlier for each.

    Laid end to end with a gap after each 2L − 1, and cut again into rows of 2L − 1, they move so.
    """
    others, length, rows = of_offsets.shape
    flat = jnp.pad(of_offsets, ((0, 0), (0, 0), (0, 1))).reshape(others, length * (rows + 1))
    moved = jnp.pad(flat, ((0, 0), (0, length - 1))).reshape(others, length + 1, rows)
    return moved[:, :length, length - 1 :]


def _logits(
    k: Float[Array, "k d"],
    q: Float[Array, "q d"],
    by_row: Float[Array, "q h"],
    by_column: Float[Array, "q w"],
) -> Float[Array, "q k"]:
    content = _product("qd,kd->qk", q, k)
    position = by_row[:, :, None] + by_column[:, None, :]
    return content + position.reshape(content.shape)


def _product(spec: str, left: Array, right: Array) -> Array:
    return jnp.einsum(spec, left, right, preferred_element_type=jnp.float32)


def _over_heads(function: Callable[[Any], Any], arrays: Any, positions: int) -> Any:
    """A few heads after the others on a CPU, whose cores share each product; else all at once.

    All at once too where their number is symbolic.
    """
    if jax.default_backend() != "cpu" or is_symbolic_dim(arrays[0].shape[0]):
        return jax.vmap(function)(arrays)
    at_once = max(1, _WEIGHTS_AT_ONCE // positions**2)
    return jax.lax.map(function, arrays, batch_size=at_once)


def _heads(x: Float[Array, "b h w n d"]) -> Float[Array, "heads q d"]:
    b, h, w, n, d = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(b * n, h * w, d)


def _grid(x: Float[Array, "heads q d"], like: Float[Array, "b h w n e"]) -> Array:
    b, h, w, n, _ = like.shape
    return x.reshape(b, n, h, w, x.shape[-1]).transpose(0, 2, 3, 1, 4)


def _blocks(x: Float[Array, "queries ..."]) -> Float[Array, "blocks size ..."]:
    """Queries in even blocks; the last is filled up with zeros, of which no gradient comes."""
    positions = len(x)
    largest = max(1, _WEIGHTS_AT_ONCE // positions)
    count = -(-positions // largest)
    size = -(-positions // count)
    padded = jnp.pad(x, [(0, count * size - positions)] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(count, size, *x.shape[1:])


def _joined(blocks: Float[Array, "blocks size ..."], positions: int) -> Array:
    return blocks.reshape(-1, *blocks.shape[2:])[:positions]
