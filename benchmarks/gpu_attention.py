"""Attention on a GPU: is the fused kernel right, and what does it gain?"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_measure import (
    Compiled,
    Row,
    Work,
    compile_in,
    difference,
    grid_name,
    one_line,
    time_in_turns,
)
from benchmarks.gpu_settings import Settings
from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.attention_backends.choice import BACKENDS

QUANTITIES = (
    "output",
    "gradient of queries",
    "gradient of keys",
    "gradient of values",
    "gradient of height table",
    "gradient of width table",
)
"""Of the function that is differentiated."""
ALONE = "output without gradients"
"""Of the function as inference compiles it, for which another kernel may be chosen."""
CHECKED = (("fused", "float32"), ("reference", "bfloat16"), ("fused", "bfloat16"))
"""Compared with the reference in float32."""
TIMED = ("fused", "reference", "blockwise")
CORRECTNESS, SPEED = "attention-correctness", "attention-speed"
FORWARD = "forward"
PASSES = (FORWARD, "forward + gradients")
THREADS = 8
FLOAT32_DIFFERENCE = 1e-5
TIMES_THE_REFERENCE = 4.0
"""By how much more than the reference's own bfloat16 fused attention in bfloat16 may differ: its
position terms are rounded once more, and so are its weights."""
BFLOAT16_ROUNDING = 2.0**-8
"""What is small beside this fraction of the scale is rounding of the results themselves."""


def check(settings: Settings) -> list[Row]:
    """The fused attention's output and gradients, beside the reference's own rounding."""
    rows = []
    with ThreadPoolExecutor(THREADS) as pool:
        started = {grid: _start_check(pool, grid, settings) for grid in settings.checked_grids}
        for grid, programs in started.items():
            row = Row(section=CORRECTNESS, case=grid_name(grid), quantity="all", batch_size=2)
            try:
                rows += _compare(grid, programs, settings, row)
            except Exception as error:
                rows.append(replace(row, status=one_line(error)))
    return rows


def measure_speed(settings: Settings) -> list[Row]:
    """Time and memory of the fused attention against the reference and blockwise, in bfloat16."""
    with ThreadPoolExecutor(THREADS) as pool:
        # All are compiled before any is timed: XLA tries kernels on the GPU while it compiles.
        programs = {
            (grid, quantity): _start_timed(pool, grid, batch_size, quantity, settings)
            for grid, batch_size in settings.timed_grids
            for quantity in PASSES
        }
    settings = replace(settings, turn_seconds=settings.attention_turn_seconds)
    rows: list[Row] = []
    for grid, batch_size in settings.timed_grids:
        drawn = draw(grid, batch_size, settings.heads, settings.head_dim)
        arrays = [jnp.asarray(array, jnp.bfloat16) for array in drawn]
        for quantity in PASSES:
            row = Row(
                section=SPEED,
                case=grid_name(grid),
                quantity=quantity,
                dtype="bfloat16",
                batch_size=batch_size,
                status=settings.status,
            )
            # Only gradients need that of the output.
            taken = arrays[:-1] if quantity == FORWARD else arrays
            rows += _time_all(programs[grid, quantity], taken, settings, row)
    return rows


def draw(
    grid: tuple[int, int], batch_size: int, heads: int, size: int, seed: int = 0
) -> tuple[Float[np.ndarray, "..."], ...]:
    """Queries, keys, values, both tables and the output's gradient, float32.

    All are numbers of bfloat16, so that every implementation is given the same, and both terms of
    the logits matter.
    """
    h, w = grid
    random = np.random.default_rng(seed)
    on_grid = (batch_size, h, w, heads, size)
    shapes = (on_grid, on_grid, on_grid, (2 * h - 1, size), (2 * w - 1, size), on_grid)
    query, *others = (random.standard_normal(shape, np.float32) for shape in shapes)
    drawn = (query * np.float32(size**-0.5), *others)
    return tuple(np.asarray(jnp.asarray(array, jnp.bfloat16), np.float32) for array in drawn)


def judge(
    implementation: str, dtype: str, differences: Sequence[float], of_reference: Sequence[float]
) -> list[str]:
    """What is wrong with each difference, empty where nothing is.

    Args:
        implementation: whose they are.
        dtype: that it computed in.
        differences: from the reference in float32.
        of_reference: those of the reference in bfloat16.
    """
    if implementation == "reference":
        limits = [float("inf")] * len(differences)
    elif dtype == "float32":
        limits = [FLOAT32_DIFFERENCE] * len(differences)
    else:
        limits = [TIMES_THE_REFERENCE * max(own, BFLOAT16_ROUNDING) for own in of_reference]
    # Written so that NaN is wrong too.
    return [
        "" if found <= limit else f"failed: differs by more than {limit:.1e}"
        for found, limit in zip(differences, limits, strict=True)
    ]


def _both_passes(function: Callable[..., Array]) -> Callable[..., tuple[Array, ...]]:
    def output_and_gradients(*arrays: Array) -> tuple[Array, ...]:
        output, pull = jax.vjp(function, *arrays[:-1])
        return (output, *pull(arrays[-1]))

    return output_and_gradients


class _Programs(NamedTuple):
    """One implementation in one dtype: the output and all gradients, and the output alone."""

    both_passes: "Future[Compiled]"
    forward: "Future[Compiled]"

    def results(self, arrays: Sequence[np.ndarray], dtype: str) -> tuple[Array, ...]:
        """One for each of ``(*QUANTITIES, ALONE)``."""
        given = [jnp.asarray(array, dtype) for array in arrays]
        # Only gradients need that of the output.
        return (
            *self.both_passes.result().call(*given),
            self.forward.result().call(*given[:-1]),
        )


def _start_check(
    pool: ThreadPoolExecutor, grid: tuple[int, int], settings: Settings
) -> dict[tuple[str, str], _Programs]:
    arrays = draw(grid, 2, settings.heads, settings.head_dim)
    programs = {}
    for name, dtype in (("reference", "float32"), *CHECKED):
        shapes = [jax.ShapeDtypeStruct(array.shape, dtype) for array in arrays]
        function, exact = BACKENDS[name], dtype == "float32"
        programs[name, dtype] = _Programs(
            compile_in(pool, jax.jit(_both_passes(function)), *shapes, exact=exact),
            compile_in(pool, jax.jit(function), *shapes[:-1], exact=exact),
        )
    return programs


def _compare(
    grid: tuple[int, int],
    programs: Mapping[tuple[str, str], _Programs],
    settings: Settings,
    row: Row,
) -> list[Row]:
    arrays = draw(grid, 2, settings.heads, settings.head_dim)
    found = {key: programs[key].results(arrays, key[1]) for key in programs}
    exact = found["reference", "float32"]
    # The reference's output beside its gradients is what all outputs are compared with.
    expected = (*exact[:-1], exact[0])
    apart = {
        key: [difference(*pair) for pair in zip(found[key], expected, strict=True)]
        for key in CHECKED
    }
    rows = []
    for (name, dtype), differences in apart.items():
        wrong = judge(name, dtype, differences, apart["reference", "bfloat16"])
        compared = zip((*QUANTITIES, ALONE), differences, wrong, strict=True)
        for quantity, largest, problem in compared:
            rows.append(
                replace(
                    row,
                    quantity=quantity,
                    implementation=name,
                    dtype=dtype,
                    status=problem or settings.status,
                    largest_difference=largest,
                )
            )
    return rows


def _start_timed(
    pool: ThreadPoolExecutor,
    grid: tuple[int, int],
    batch_size: int,
    quantity: str,
    settings: Settings,
) -> dict[str, "Future[Compiled]"]:
    h, w = grid
    on_grid = (batch_size, h, w, settings.heads, settings.head_dim)
    tables = [(2 * length - 1, settings.head_dim) for length in grid]
    shapes = [on_grid, on_grid, on_grid, *tables, *([] if quantity == FORWARD else [on_grid])]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    return {
        name: compile_in(
            pool,
            jax.jit(BACKENDS[name] if quantity == FORWARD else _both_passes(BACKENDS[name])),
            *arguments,
        )
        for name in TIMED
    }


def _time_all(
    programs: Mapping[str, "Future[Compiled]"],
    arrays: Sequence[Array],
    settings: Settings,
    row: Row,
) -> list[Row]:
    """One grid and one quantity; an implementation that fails does not keep others from it."""
    works: list[Work] = []
    failed: list[Row] = []
    for name, program in programs.items():
        try:
            work = program.result().work(name, *arrays)
            # Compiled at the same time as the others, which leaves its seconds no meaning.
            works.append(work._replace(compile_seconds=None))
        except Exception as error:
            failed.append(replace(row, implementation=name, status=one_line(error)))
    return [*(time_in_turns(works, settings, row) if works else []), *failed]
