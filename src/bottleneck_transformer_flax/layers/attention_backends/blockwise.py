"""Attention by blocks of queries, in memory linear in the positions.

Each block computes its rows of one head's weights, uses them and drops them. The backward pass
recomputes them from the logsumexp of each row (as in FlashAttention, arXiv 2205.14135). A block
holds whole rows, so its softmax is exact without rescaling.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.export import is_symbolic_dim

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.matrix_product import matmul_float32
from bottleneck_transformer_flax.layers.remat import SAVED

_MAX_WEIGHTS = 2**21
"""Weights in memory at once, of one block or of several heads: 8 MB. Fewer are slower."""

Residuals = tuple[Array, ...]


@jax.custom_vjp
def blockwise_attention(
    query: Float[Array, "b h w n d"],
    key: Float[Array, "b h w n d"],
    value: Float[Array, "b h w n v"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b h w n v"]:
    """The function of ``reference_attention``, with gradients in reverse mode only."""
    return _forward(query, key, value, height_table, width_table)[0]


def _forward(
    query: Array, key: Array, value: Array, height_table: Array, width_table: Array
) -> tuple[Array, Residuals]:
    _, h, w, _, _ = query.shape

    def attend_head(arrays: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        q, k, v = arrays

        def attend_block(block: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            logits = _logits(k, *block)
            row_max = jnp.max(logits, axis=-1, keepdims=True)
            weights = jnp.exp(logits - row_max)
            row_sum = jnp.sum(weights, axis=-1, keepdims=True)
            output = matmul_float32(weights.astype(v.dtype), v) / row_sum
            return output.astype(v.dtype), (row_max + jnp.log(row_sum))[:, 0]

        row_logits, column_logits = _axis_logits(q, height_table, width_table, h=h, w=w)
        blocks = tuple(_split(x) for x in (q, row_logits, column_logits))
        output, logsumexp = jax.lax.map(attend_block, blocks)
        return _join(output, h * w), _join(logsumexp, h * w)

    heads = tuple(map(_to_heads, (query, key, value)))
    output, logsumexp = _map_heads(attend_head, heads, h * w)
    output = checkpoint_name(_from_heads(output, query), SAVED)
    logsumexp = checkpoint_name(logsumexp, SAVED)
    return output, (query, key, value, height_table, width_table, output, logsumexp)


def _backward(residuals: Residuals, output_gradient: Array) -> Residuals:
    query, key, value, height_table, width_table, output, logsumexp = residuals
    _, h, w, _, _ = query.shape

    def head_gradients(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        q, k, v, o, do, logsumexp = arrays

        def block_gradients(sums: tuple[Array, Array], block: Any) -> tuple[Any, Any]:
            dk, dv = sums
            q, row_logits, column_logits, logsumexp, do, delta = block
            weights = jnp.exp(_logits(k, q, row_logits, column_logits) - logsumexp[:, None])
            dlogits = weights * (matmul_float32(do, v.T) - delta[:, None])
            on_grid = dlogits.reshape(-1, h, w)
            rounded = dlogits.astype(q.dtype)
            # Transposed, (d, k), because XLA on CPU takes twice as long for (k, d).
            dk += matmul_float32(q.T, rounded)
            dv += matmul_float32(do.T, weights.astype(do.dtype))
            dq = matmul_float32(rounded, k)
            return (dk, dv), (dq, jnp.sum(on_grid, axis=2), jnp.sum(on_grid, axis=1))

        (row_logits, column_logits), axis_gradients = jax.vjp(
            lambda *arguments: _axis_logits(*arguments, h=h, w=w), q, height_table, width_table
        )
        delta = jnp.sum(o.astype(jnp.float32) * do.astype(jnp.float32), axis=-1)
        sums = (jnp.zeros_like(k.T, jnp.float32), jnp.zeros_like(v.T, jnp.float32))
        blocks = tuple(_split(x) for x in (q, row_logits, column_logits, logsumexp, do, delta))
        (dk, dv), of_blocks = jax.lax.scan(block_gradients, sums, blocks)
        dq, drow_logits, dcolumn_logits = (_join(x, h * w) for x in of_blocks)
        dq_position, dheight, dwidth = axis_gradients((drow_logits, dcolumn_logits))
        dq += dq_position.astype(jnp.float32)
        return dq.astype(q.dtype), dk.T.astype(k.dtype), dv.T.astype(v.dtype), dheight, dwidth

    arrays = (*map(_to_heads, (query, key, value, output, output_gradient)), logsumexp)
    *by_head, dheight, dwidth = _map_heads(head_gradients, arrays, h * w)
    dquery, dkey, dvalue = (_from_heads(x, query) for x in by_head)
    return dquery, dkey, dvalue, jnp.sum(dheight, axis=0), jnp.sum(dwidth, axis=0)


blockwise_attention.defvjp(_forward, _backward)


def _axis_logits(
    q: Float[Array, "q d"], height_table: Array, width_table: Array, *, h: int, w: int
) -> tuple[Float[Array, "q h"], Float[Array, "q w"]]:
    """Position logits by the row of the key, and by its column.

    Multiplies each query by the embedding of every offset, although it needs half of them: one
    product for all queries is faster than one for each row or column of them.
    """
    row_logits, column_logits = (
        matmul_float32(q.reshape(h, w, -1), table.T) for table in (height_table, width_table)
    )
    row_logits = jnp.swapaxes(_offsets_to_keys(jnp.swapaxes(row_logits, 0, 1)), 0, 1)
    return row_logits.reshape(h * w, h), _offsets_to_keys(column_logits).reshape(h * w, w)


def _offsets_to_keys(
    by_offset: Float[Array, "others length rows"],
) -> Float[Array, "others length k"]:
    """Select each query's L keys from its 2L − 1 offsets: the last L of query 0, then one earlier.

    Rows of 2L − 1 are padded by one, laid end to end, and cut into rows of 2L − 1 again, which
    shifts each row by one more than the row before.
    """
    others, length, rows = by_offset.shape
    flat = jnp.pad(by_offset, ((0, 0), (0, 0), (0, 1))).reshape(others, length * (rows + 1))
    shifted = jnp.pad(flat, ((0, 0), (0, length - 1))).reshape(others, length + 1, rows)
    return shifted[:, :length, length - 1 :]


def _logits(
    k: Float[Array, "k d"],
    q: Float[Array, "q d"],
    row_logits: Float[Array, "q h"],
    column_logits: Float[Array, "q w"],
) -> Float[Array, "q k"]:
    content = matmul_float32(q, k.T)
    position = row_logits[:, :, None] + column_logits[:, None, :]
    return content + position.reshape(content.shape)


def _map_heads(function: Callable[[Any], Any], arrays: Any, positions: int) -> Any:
    """Map over a few heads at a time on a CPU, whose cores share each product; else over all.

    Over all, too, where the number of heads in the batch is symbolic.
    """
    if jax.default_backend() != "cpu" or is_symbolic_dim(arrays[0].shape[0]):
        return jax.vmap(function)(arrays)
    at_once = max(1, _MAX_WEIGHTS // positions**2)
    return jax.lax.map(function, arrays, batch_size=at_once)


def _to_heads(x: Float[Array, "b h w n d"]) -> Float[Array, "heads q d"]:
    b, h, w, n, d = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(b * n, h * w, d)


def _from_heads(x: Float[Array, "heads q d"], like: Float[Array, "b h w n e"]) -> Array:
    b, h, w, n, _ = like.shape
    return x.reshape(b, n, h, w, x.shape[-1]).transpose(0, 2, 3, 1, 4)


def _split(x: Float[Array, "queries ..."]) -> Float[Array, "blocks size ..."]:
    """Split queries into equal blocks; zeros fill the last, and add nothing to any gradient."""
    positions = len(x)
    max_size = max(1, _MAX_WEIGHTS // positions)
    count = -(-positions // max_size)
    size = -(-positions // count)
    padded = jnp.pad(x, [(0, count * size - positions)] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(count, size, *x.shape[1:])


def _join(blocks: Float[Array, "blocks size ..."], positions: int) -> Array:
    return blocks.reshape(-1, *blocks.shape[2:])[:positions]
