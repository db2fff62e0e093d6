"""Check attention on a GPU: the fused kernel against the reference and its own rounding."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import FAILED, Row
from benchmarks.timing import relative_difference
from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.attention_backends.choice import BACKENDS

QUANTITIES = (
    "output",
    "gradient of queries",
    "gradient of keys",
    "gradient of values",
    "gradient of height table",
    "gradient of width table",
    "output without gradients",
)
"""What is compared; inference compiles the last, for which another kernel may be chosen."""
Way = tuple[str, str]
"""A backend and a dtype."""
EXACT: Way = ("reference", "float32")
ROUNDED: Way = ("reference", "bfloat16")
COMPARED: tuple[Way, ...] = (("fused", "float32"), ROUNDED, ("fused", "bfloat16"))
"""Backends and dtypes that are compared with the reference in float32."""
FLOAT32_DIFFERENCE = 1e-5
TIMES_THE_REFERENCE = 4.0
"""How many times the reference's own error in bfloat16 that of fused attention may be, whose
position terms and weights are rounded once more."""
BFLOAT16_ROUNDING = 2.0**-8
"""Relative error of rounding results; the reference's own error counts as at least this."""
_BATCH_SIZE, _THREADS = 2, 8


def check(grids: Sequence[tuple[int, int]], heads: int, head_dim: int, row: Row) -> list[Row]:
    """Compare outputs and gradients on every grid; where one fails, the others still run."""
    rows = []
    for grid in grids:
        of_grid = replace(row, height=grid[0], width=grid[1])
        try:
            rows += _check_grid(draw(grid, heads, head_dim), of_grid)
        except Exception as error:
            line = next(iter(str(error).splitlines()), "")
            status = f"{FAILED}: {type(error).__name__}: {line[:200]}"
            rows.append(replace(of_grid, quantity="all", status=status))
    return rows


def draw(grid: tuple[int, int], heads: int, head_dim: int) -> tuple[Float[np.ndarray, "..."], ...]:
    """Queries, keys, values, both tables and the output's gradient, float32.

    All are exact in bfloat16, so that every backend gets the same numbers. Both terms of the logits
    matter.
    """
    h, w = grid
    random = np.random.default_rng(0)
    on_grid = (_BATCH_SIZE, h, w, heads, head_dim)
    shapes = (on_grid, on_grid, on_grid, (2 * h - 1, head_dim), (2 * w - 1, head_dim), on_grid)
    query, *others = (random.standard_normal(shape, np.float32) for shape in shapes)
    drawn = (query * np.float32(head_dim**-0.5), *others)
    return tuple(np.asarray(jnp.asarray(array, jnp.bfloat16), np.float32) for array in drawn)


def _check_grid(arrays: Sequence[np.ndarray], row: Row) -> list[Row]:
    ways = (EXACT, *COMPARED)
    with ThreadPoolExecutor(_THREADS) as pool:
        results = dict(zip(ways, pool.map(partial(_results, arrays), ways), strict=True))
    expected = results[EXACT]
    # The output without gradients is compared with the output beside the gradients.
    expected = (*expected[:-1], expected[0])
    apart = {
        way: [relative_difference([ours], [theirs]) or 0.0 for ours, theirs in pairs]
        for way in COMPARED
        for pairs in [zip(results[way], expected, strict=True)]
    }
    return [
        replace(
            row,
            quantity=quantity,
            implementation=way[0],
            dtype=way[1],
            difference=difference,
            status=problem or row.status,
        )
        for way, differences in apart.items()
        for quantity, difference, problem in zip(
            QUANTITIES, differences, judge(way, differences, apart[ROUNDED]), strict=True
        )
    ]


def _results(arrays: Sequence[np.ndarray], way: Way) -> tuple[np.ndarray, ...]:
    """Compute one array for each of ``QUANTITIES``."""
    name, dtype = way
    given = [jnp.asarray(array, dtype) for array in arrays]
    function: Any = BACKENDS[name]
    # GPUs would round float32 to 10 bits of mantissa first.
    with jax.default_matmul_precision("highest" if dtype == "float32" else None):
        both = jax.jit(_output_and_gradients(function))(*given)
        alone = jax.jit(function)(*given[:-1])
    return tuple(np.asarray(array, np.float32) for array in (*both, alone))


def _output_and_gradients(function: Callable[..., Array]) -> Callable[..., tuple[Array, ...]]:
    def output_and_gradients(*arrays: Array) -> tuple[Array, ...]:
        output, pull = jax.vjp(function, *arrays[:-1])
        return (output, *pull(arrays[-1]))

    return output_and_gradients


def judge(way: Way, differences: Sequence[float], of_reference: Sequence[float]) -> list[str]:
    """Say what is wrong with each difference; an empty text where nothing is.

    Args:
        way: the backend and the dtype.
        differences: differences from the reference in float32.
        of_reference: the same for the reference in bfloat16.
    """
    if way[0] == "reference":
        limits = [float("inf")] * len(differences)
    elif way[1] == "float32":
        limits = [FLOAT32_DIFFERENCE] * len(differences)
    else:
        limits = [TIMES_THE_REFERENCE * max(own, BFLOAT16_ROUNDING) for own in of_reference]
    # Written so that NaN is wrong too.
    return [
        "" if found <= limit else f"{FAILED}: differs by more than {limit:.1e}"
        for found, limit in zip(differences, limits, strict=True)
    ]
