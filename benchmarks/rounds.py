"""Peers side by side: built, compared, then timed in turns."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import numpy as np

from benchmarks.cases import Case, write_case
from benchmarks.implementations import (
    PRODUCT_SIDE,
    PRODUCTS,
    FreedMemory,
)
from benchmarks.workers import (
    Report,
    UnableError,
    Worker,
    WorkerError,
)

LARGEST_DIFFERENCE = 1e-4
"""Of any output from the first implementation's, as a fraction of the largest of its values."""
_SECONDS_A_TURN = 0.3
# Threads that wait actively for more work stop doing so within milliseconds.
_PAUSE_SECONDS = 0.05
Turned = TypeVar("Turned")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one implementation in one case.

    Attributes:
        workload: of the case.
        variant: of the case.
        height: of the images in pixels, or of the grid in positions; ``width`` alike.
        batch_size: of the case.
        implementation: its name.
        images_per_second: or grids, by the median.
        p50_seconds: median of all calls.
        p95_seconds: of all calls.
        relative_time: the median of its rounds ÷ that of the first implementation's.
        peak_memory_bytes: of its process since it was built, what building left unused included;
            None where the system does not say.
        temporaries_bytes: of one call, by XLA's analysis.
        compile_seconds: until the first result, without reading the weights.
        fraction_of_peak: its floating point operations in a second ÷ those of the machine's
            fastest matrix product in the same rounds; None where none could be timed.
        largest_difference: of its outputs from the first implementation's.
        rounds: turns that it had.
        calls: in all of them.
    """

    workload: str
    variant: str
    height: int
    width: int
    batch_size: int
    implementation: str
    images_per_second: float
    p50_seconds: float
    p95_seconds: float
    relative_time: float
    peak_memory_bytes: int | None
    temporaries_bytes: int | None
    compile_seconds: float
    fraction_of_peak: float | None
    largest_difference: float
    rounds: int
    calls: int


class Result(NamedTuple):
    """A case's rows, and in words what could not be measured.

    Attributes:
        rows: of every implementation that was timed.
        problems: what went wrong.
        unable: which implementations are not made for this work.
    """

    rows: list[Row]
    problems: list[str]
    unable: list[str]


class _Ready(NamedTuple):
    worker: Worker
    report: Report
    difference: float


def measure(
    case: Case,
    names: Sequence[str],
    *,
    rounds: int,
    freed_memory: FreedMemory = "kept",
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Measure implementations of one case beside each other.

    Args:
        case: the work.
        names: of implementations that are installed and do such work; the others are compared
            with the first.
        rounds: turns that each of them has.
        freed_memory: whose processes keep it. That makes every implementation faster.
        say: told what is being done.

    Raises:
        WorkerError: when the first implementation cannot do the work or gives what is not finite,
            or one breaks down while it is timed.
    """
    products = [name for name, product in PRODUCTS.items() if not product.missing()]
    with TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        problems: list[str] = []
        unable: list[str] = []
        say("drawing weights and inputs")
        write_case(case, folder)
        ready: list[_Ready] = []
        for name in [*names, *products]:
            say(f"building {name}")
            worker = stack.enter_context(closing(Worker(name, case, folder, freed_memory)))
            try:
                report = worker.report()
            except WorkerError as error:
                if not ready:
                    raise
                (unable if isinstance(error, UnableError) else problems).append(str(error))
                continue
            if not ready and not all(np.isfinite(output).all() for output in report.outputs):
                raise WorkerError(
                    f"{name}: its outputs are not finite, so nothing can be compared with them"
                )
            first = ready[0].report if ready else report
            difference = 0.0 if name in products else _difference(report, first)
            if difference <= LARGEST_DIFFERENCE:
                ready.append(_Ready(worker, report, difference))
            else:
                problems.append(
                    f"{name}: its outputs differ from those of {ready[0].worker.name} by "
                    f"{difference:.1e} of their scale; at most {LARGEST_DIFFERENCE:g} is allowed, "
                    "so it was not timed"
                )
        seconds = _take_turns([each.worker for each in ready], rounds, say)
        timed = [statistics.median(_all(seconds[name])) for name in products if name in seconds]
        peak = 2 * PRODUCT_SIDE**3 / min(timed) if timed else None
        seconds_at_peak = case.floating_point_operations() / peak if peak else None
        rows = [
            _row(case, each, seconds[each.worker.name], seconds[names[0]], seconds_at_peak)
            for each in ready
            if each.worker.name not in products
        ]
    return Result(rows, problems, unable)


def _difference(report: Report, first: Report) -> float:
    """The largest of all outputs', each as a fraction of its scale."""
    pairs = list(zip(report.outputs, first.outputs, strict=True))
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return math.inf
    differences = [np.abs(ours - theirs).max() / np.abs(theirs).max() for ours, theirs in pairs]
    largest = float(np.max(differences))
    return math.inf if math.isnan(largest) else largest


def _take_turns(
    workers: Sequence[Worker], rounds: int, say: Callable[[str], None]
) -> dict[str, list[list[float]]]:
    """Seconds of every call, by implementation and round."""
    calls = {}
    for worker in workers:
        worker.time(1)
        calls[worker.name] = max(1, math.ceil(_SECONDS_A_TURN / worker.time(1)[0]))
    seconds: dict[str, list[list[float]]] = {worker.name: [] for worker in workers}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for worker in rotated(workers, number):
            time.sleep(_PAUSE_SECONDS)
            seconds[worker.name].append(worker.time(calls[worker.name]))
    return seconds


def rotated(workers: Sequence[Turned], number: int) -> Iterator[Turned]:
    """Each round begins with another, so that none always follows the same one."""
    start = number % len(workers)
    yield from workers[start:]
    yield from workers[:start]


def _all(turns: Sequence[Sequence[float]]) -> list[float]:
    return [seconds for turn in turns for seconds in turn]


def _row(
    case: Case,
    ready: _Ready,
    turns: Sequence[Sequence[float]],
    turns_of_first: Sequence[Sequence[float]],
    seconds_at_peak: float | None,
) -> Row:
    calls = _all(turns)
    median = statistics.median(calls)
    of_first = statistics.median(map(statistics.median, turns_of_first))
    return Row(
        workload=case.workload,
        variant=case.variant,
        height=case.size[0],
        width=case.size[1],
        batch_size=case.batch_size,
        implementation=ready.worker.name,
        images_per_second=case.batch_size / median,
        p50_seconds=median,
        p95_seconds=float(np.percentile(calls, 95)),
        relative_time=statistics.median(map(statistics.median, turns)) / of_first,
        peak_memory_bytes=ready.worker.peak_memory_bytes(),
        temporaries_bytes=ready.report.temporaries_bytes,
        compile_seconds=ready.report.compile_seconds,
        fraction_of_peak=None if seconds_at_peak is None else seconds_at_peak / median,
        largest_difference=ready.difference,
        rounds=len(turns),
        calls=len(calls),
    )
