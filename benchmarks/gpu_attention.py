"""Attention on a GPU: is the fused kernel right, and what does it gain?"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from gpu_measure import (
    Compiled,
    Row,
    Work,
    compile_in,
    difference,
    grid_name,
    one_line,
    time_in_turns,
)
from gpu_settings import Settings

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.attention_backends import BACKENDS

QUANTITIES = (
    "output",
    "gradient of queries",
    "gradient of keys",
    "gradient of values",
    "gradient of height table",
    "gradient of width table",
)
CHECKED = (("fused", "float32"), ("reference", "bfloat16"), ("fused", "bfloat16"))
"""Compared with the reference in float32."""
TIMED = ("fused", "reference", "blockwise")
CORRECTNESS, SPEED = "attention-correctness", "attention-speed"
FORWARD = "forward"
PASSES = (FORWARD, "forward + gradients")
THREADS = 8
FLOAT32_DIFFERENCE = 1e-4
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
    drawn = (
        random.normal(0, size**-0.5, on_grid),
        random.normal(0, 1, on_grid),
        random.normal(0, 1, on_grid),
        random.normal(0, 1, (2 * h - 1, size)),
        random.normal(0, 1, (2 * w - 1, size)),
        random.normal(0, 1, on_grid),
    )
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


def _start_check(
    pool: ThreadPoolExecutor, grid: tuple[int, int], settings: Settings
) -> dict[tuple[str, str], "Future[Compiled]"]:
    arrays = draw(grid, 2, settings.heads, settings.head_dim)
    programs = {}
    for name, dtype in (("reference", "float32"), *CHECKED):
        shapes = [jax.ShapeDtypeStruct(array.shape, dtype) for array in arrays]
        function = jax.jit(_both_passes(BACKENDS[name]))
        programs[name, dtype] = compile_in(pool, function, *shapes, exact=dtype == "float32")
    return programs


def _compare(
    grid: tuple[int, int],
    programs: Mapping[tuple[str, str], "Future[Compiled]"],
    settings: Settings,
    row: Row,
) -> list[Row]:
    arrays = draw(grid, 2, settings.heads, settings.head_dim)

    def results(name: str, dtype: str) -> tuple[Array, ...]:
        call = programs[name, dtype].result().call
        given: tuple[Array, ...] = call(*(jnp.asarray(array, dtype) for array in arrays))
        return given

    exact = results("reference", "float32")
    found = {
        key: [difference(*pair) for pair in zip(results(*key), exact, strict=True)]
        for key in CHECKED
    }
    rows = []
    for (name, dtype), differences in found.items():
        wrong = judge(name, dtype, differences, found["reference", "bfloat16"])
        for quantity, largest, problem in zip(QUANTITIES, differences, wrong, strict=True):
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
            works.append(program.result().work(name, *arrays))
        except Exception as error:
            failed.append(replace(row, implementation=name, status=one_line(error)))
    return [*(time_in_turns(works, settings, row) if works else []), *failed]
