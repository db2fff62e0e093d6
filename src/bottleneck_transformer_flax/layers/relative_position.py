"""Relative position tables: their logits, and resizing them for another grid.

A table holds one embedding for each offset key − query along one axis. An axis of length L has
2L−1 offsets, −(L−1) … L−1, so offset 0 is the middle row.
"""

import jax.numpy as jnp
import numpy as np

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.layers.matrix_product import matmul_float32


def relative_embeddings(table: Float[Array, "rows d"], length: int) -> Float[Array, "q k d"]:
    """The embedding of every (query, key) pair along one axis of ``length`` positions."""
    positions = np.arange(length)
    return table[positions[None, :] - positions[:, None] + length - 1]


def relative_logits(
    query: Float[Array, "b h w n d"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> Float[Array, "b n q k"]:
    """Position logits q · (r_height + r_width), in float32.

    Equation 1 of arXiv 2101.11605 (figure 4): for the query at (i, j) and the key at (k, l),
    ``query[i, j] · (height_table[k − i + h − 1] + width_table[l − j + w − 1])``.

    Args:
        query: queries, already scaled.
        height_table: (2h − 1, d), shared by the heads.
        width_table: (2w − 1, d), shared by the heads.
    """
    b, h, w, n, _ = query.shape
    row_logits, column_logits = axis_logits(query, height_table, width_table)
    return (row_logits[..., :, None] + column_logits[..., None, :]).reshape(b, n, h * w, h * w)


def axis_logits(
    query: Float[Array, "b h w n d"],
    height_table: Float[Array, "height_rows d"],
    width_table: Float[Array, "width_rows d"],
) -> tuple[Float[Array, "b n h w key_h"], Float[Array, "b n h w key_w"]]:
    """The two terms of ``relative_logits``, by the row of the key and by its column; float32."""
    _, h, w, _, _ = query.shape
    return (
        _axis_logits(query, relative_embeddings(height_table, h), axis=1),
        _axis_logits(query, relative_embeddings(width_table, w), axis=2),
    )


def _axis_logits(
    query: Float[Array, "b h w n d"], embeddings: Float[Array, "q k d"], *, axis: int
) -> Float[Array, "b n h w k"]:
    """Products of the queries at each place along an axis with the embeddings of that place.

    As a batch of matrix products, which every runtime of exported models has a fast kernel for.
    """
    queries = jnp.moveaxis(query, axis, 0)
    length, *others, d = queries.shape
    products = matmul_float32(queries.reshape(length, -1, d), embeddings.swapaxes(1, 2))
    logits = jnp.moveaxis(products.reshape(length, *others, length), 0, axis)
    return logits.transpose(0, 3, 1, 2, 4)


def resize_table(table: Float[Array, "rows d"], length: int) -> Float[Array, "new_rows d"]:
    """Interpolate a table linearly over the offset, for an axis of ``length`` positions.

    The farthest offsets map to the farthest, and offset 0 to offset 0, whose row is unchanged. A
    table of the right size is returned as it is.

    Raises:
        ConfigError: when the table has an even number of rows or ``length`` is below 1.
    """
    rows = table.shape[0]
    if rows % 2 == 0 or length < 1:
        raise ConfigError(
            f"a relative table of {rows} rows cannot be resized to length {length}; "
            "expected an odd number of rows (2L − 1 for an axis of length L) and length ≥ 1"
        )
    if rows == 2 * length - 1:
        return table
    farthest = (rows - 1) // 2
    # Multiplying before dividing makes the middle exactly 0, the one offset of a single position.
    offsets = np.arange(1 - length, length) * farthest / max(1, length - 1)
    below = np.floor(offsets + farthest).astype(int)
    above = np.minimum(below + 1, rows - 1)
    fraction = jnp.asarray(offsets + farthest - below, table.dtype)[:, None]
    return table[below] * (1 - fraction) + table[above] * fraction
