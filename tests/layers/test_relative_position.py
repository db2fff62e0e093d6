"""Relative tables on another grid: linear in the offset, the centre where it was."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.layers.relative_position import resize_table

resize = partial(jax.jit, static_argnums=1)(resize_table)


def random_table(length):
    values = np.random.default_rng(length).normal(size=(2 * length - 1, 3))
    return jnp.asarray(values, jnp.float32)


def interpolate(table, length):
    """Row by row: the new farthest offset is the old farthest, and between them it is linear."""
    table = np.asarray(table, np.float64)
    centre = (len(table) - 1) // 2
    rows = []
    for offset in range(-(length - 1), length):
        position = centre + (offset * centre / (length - 1) if length > 1 else 0)
        below = min(int(np.floor(position + 1e-12)), len(table) - 1)
        above = min(below + 1, len(table) - 1)
        fraction = position - below
        rows.append((1 - fraction) * table[below] + fraction * table[above])
    return np.stack(rows)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(old=st.integers(1, 24), new=st.integers(1, 24))
@example(old=14, new=1)
@example(old=1, new=5)
@example(old=8, new=26)
@example(old=16, new=48)
def test_every_row_is_interpolated_linearly_over_the_offset(old, new):
    # A weight of 1e-16 in place of 0 shows beside nothing else than a zero.
    table = random_table(old).at[old - 1].set(0)
    resized = resize(table, new)
    assert resized.shape == (2 * new - 1, 3)
    assert resized.dtype == table.dtype
    np.testing.assert_allclose(resized, interpolate(table, new), atol=1e-5)
    np.testing.assert_array_equal(resized[new - 1], 0, err_msg="the centre row")
    if new > 1:
        np.testing.assert_array_equal(resized[0], table[0])
        np.testing.assert_array_equal(resized[-1], table[-1])
    assert resize_table(table, old) is table


@pytest.mark.parametrize(("short", "long"), [(2, 3), (3, 5), (4, 7), (3, 9)])
def test_there_and_back_is_exact_where_the_finer_grid_holds_the_coarser(short, long):
    table = random_table(short)
    np.testing.assert_array_equal(resize(resize(table, long), short), table)


@pytest.mark.parametrize(("rows", "length"), [(2, 5), (14, 5), (5, 0), (5, -1)])
def test_an_even_number_of_rows_or_a_length_below_one_is_refused(rows, length):
    with pytest.raises(ConfigError, match=rf"{rows} rows .*length {length};.*odd .* ≥ 1"):
        resize_table(jnp.zeros((rows, 3)), length)
