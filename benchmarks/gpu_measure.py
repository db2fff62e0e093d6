"""How gpu.py measures: works that take turns, and a row for everything that is known."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.gpu_settings import NOT_MEASURED, Settings


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that was measured, or that was not, and why.

    Attributes:
        section: of the script.
        case: the grid, or the network and its images.
        quantity: what was compared, or what was timed.
        implementation: who did it.
        dtype: of the computation.
        batch_size: images, or grids.
        status: "measured", "not yet measured" for a trial at small sizes, or what went wrong.
        seconds: of one call, the median of the rounds.
        per_second: images, or grids.
        relative_time: the seconds ÷ those of the first implementation beside it.
        largest_difference: from what it is compared with, as a fraction of the largest of its
            values.
        float32_difference: of networks the same, both of them in float32 at a small batch.
        memory_bytes: that one call needs: of JAX arguments, results and temporaries by XLA's
            analysis; of PyTorch the most that was allocated while it was timed.
        process_peak_bytes: of JAX, the most that this process has had on the device so far.
        compile_seconds: until the first result; empty where others were compiled at the same time.
        rounds: turns.
        calls: in all of them.
    """

    section: str
    case: str
    quantity: str
    implementation: str = ""
    dtype: str = ""
    batch_size: int | None = None
    status: str = NOT_MEASURED
    seconds: float | None = None
    per_second: float | None = None
    relative_time: float | None = None
    largest_difference: float | None = None
    float32_difference: float | None = None
    memory_bytes: int | None = None
    process_peak_bytes: int | None = None
    compile_seconds: float | None = None
    rounds: int | None = None
    calls: int | None = None


class Work(NamedTuple):
    """Something to time.

    Attributes:
        name: of the implementation.
        start: begins one call, and need not wait for it.
        wait: until what was last started is done, given what ``start`` returned.
        memory_bytes: that a call needs; None where nobody says.
        compile_seconds: until the first result; None where others were compiled at the same time.
    """

    name: str
    start: Callable[[], Any]
    wait: Callable[[Any], object]
    memory_bytes: Callable[[], int | None]
    compile_seconds: float | None


class Compiled(NamedTuple):
    """A program of JAX and what it took to compile it."""

    call: Any
    seconds: float

    def work(self, name: str, *arguments: Any) -> Work:
        """Calls of it with arguments that stay the same; the first is made here."""
        start = time.perf_counter()
        jax.block_until_ready(self.call(*arguments))
        seconds = self.seconds + time.perf_counter() - start
        return Work(
            name,
            lambda: self.call(*arguments),
            jax.block_until_ready,
            lambda: program_bytes(self.call),
            seconds,
        )


def compile_now(jitted: Any, *arguments: Any, exact: bool = False) -> Compiled:
    """Trace and compile a jitted function.

    Args:
        jitted: the function.
        arguments: or their shapes.
        exact: whether products of float32 are; GPUs would round to 10 bits of mantissa first.
    """
    start = time.perf_counter()
    with jax.default_matmul_precision("highest" if exact else None):
        compiled = jitted.lower(*arguments).compile()
    return Compiled(compiled, time.perf_counter() - start)


def compile_in(
    pool: ThreadPoolExecutor, jitted: Any, *arguments: Any, exact: bool = False
) -> "Future[Compiled]":
    """``compile_now`` in one of a pool's threads."""
    return pool.submit(compile_now, jitted, *arguments, exact=exact)


def program_bytes(compiled: Any) -> int | None:
    """Arguments, results and temporaries of a compiled program; what is used twice counts once."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def time_in_turns(
    works: Sequence[Work],
    settings: Settings,
    row: Row,
    differences: Mapping[str, float] | None = None,
) -> list[Row]:
    """Time implementations beside each other and say what came of it.

    Args:
        works: to be timed; the others are relative to the first.
        settings: rounds, and how long a turn is.
        row: what is the same for all.
        differences: of the outputs, by name, where they were compared.
    """
    calls = {work.name: _calls_a_turn(work, settings.turn_seconds) for work in works}
    turns: dict[str, list[float]] = {work.name: [] for work in works}
    for _ in range(settings.rounds):
        for work in works:
            turns[work.name].append(_seconds_a_call(work, calls[work.name]))
    medians = {name: statistics.median(seconds) for name, seconds in turns.items()}
    return [
        replace(
            row,
            implementation=work.name,
            seconds=medians[work.name],
            per_second=(row.batch_size or 1) / medians[work.name],
            relative_time=medians[work.name] / medians[works[0].name],
            largest_difference=(differences or {}).get(work.name),
            memory_bytes=work.memory_bytes(),
            process_peak_bytes=_process_peak_bytes(),
            compile_seconds=work.compile_seconds,
            rounds=settings.rounds,
            calls=settings.rounds * calls[work.name],
        )
        for work in works
    ]


def difference(came: Any, expected: Any) -> float:
    """The largest, as a fraction of the largest expected value."""
    came, expected = (np.asarray(array, np.float64) for array in (came, expected))
    return float(np.abs(came - expected).max() / np.abs(expected).max())


def one_line(error: BaseException) -> str:
    """An error as the status of a row."""
    lines = str(error).strip().splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0][:200]}"


def grid_name(size: tuple[int, int]) -> str:
    """Height and width, for people."""
    return f"{size[0]} × {size[1]}"


def _calls_a_turn(work: Work, turn_seconds: float) -> int:
    # The first fills caches. A turn is of several calls, so that it is not starting them that is
    # timed.
    _seconds_a_call(work, 1)
    return min(1000, max(2, math.ceil(turn_seconds / _seconds_a_call(work, 2))))


def _seconds_a_call(work: Work, calls: int) -> float:
    start = time.perf_counter()
    started = None
    for _ in range(calls):
        started = work.start()
    work.wait(started)
    return (time.perf_counter() - start) / calls


def _process_peak_bytes() -> int | None:
    statistics_of_device = jax.devices()[0].memory_stats() or {}
    return statistics_of_device.get("peak_bytes_in_use")
