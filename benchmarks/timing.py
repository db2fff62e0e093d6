"""The one way to time: outputs are compared first, then all take turns in rounds."""

import contextlib
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from benchmarks.implementations import (
    PRODUCT_SIDE,
    PRODUCTS,
    FreedMemory,
    Implementation,
)
from benchmarks.results import FAILED, SKIPPED, Row, Say
from benchmarks.workers import Report, UnableError, Worker, WorkerError

Outputs = Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often and how long each implementation is timed.

    Attributes:
        rounds: number of turns.
        turn_seconds: about how long a turn takes, in as many calls as fit.
        fewest_calls: least number of calls in a turn.
    """

    rounds: int
    turn_seconds: float = 0.3
    fewest_calls: int = 1


class Work(Protocol):
    """A piece of work, with the same weights and inputs for every implementation."""

    @property
    def batch_size(self) -> int:
        """Images or grids of one call."""
        ...

    @property
    def flops(self) -> int | None:
        """FLOPs of one call, if the MFU is to be computed."""
        ...

    def write(self, folder: Path) -> None:
        """Write what the implementations read."""
        ...

    def row(self) -> Row:
        """What the rows of all implementations have in common."""
        ...

    def difference(self, outputs: Outputs, expected: Outputs) -> float | None:
        """How far an implementation's outputs are from the first one's."""
        ...

    @property
    def largest_difference(self) -> float:
        """How far they may be."""
        ...


class Timed(Protocol):
    """What can be timed: a worker, or a command."""

    @property
    def name(self) -> str:
        """Name of the implementation."""
        ...

    def time(self, calls: int) -> float:
        """Mean seconds per call, over ``calls`` calls."""
        ...


class Turns(NamedTuple):
    """Seconds per call in every round, and the number of calls in a round."""

    seconds: list[float]
    calls: int


def take_turns(timed: Sequence[Timed], pace: Pace, say: Say = lambda _: None) -> dict[str, Turns]:
    """Time everyone in every round; each round begins with another, so no order is favoured."""
    turns = {}
    for each in timed:
        say(f"warming up {each.name}")
        each.time(pace.fewest_calls)
        calls = math.ceil(pace.turn_seconds / max(each.time(pace.fewest_calls), 1e-6))
        turns[each.name] = Turns([], max(pace.fewest_calls, calls))
    for number in range(pace.rounds):
        say(f"round {number + 1} of {pace.rounds}")
        start = number % len(timed)
        for each in [*timed[start:], *timed[:start]]:
            turns[each.name].seconds.append(each.time(turns[each.name].calls))
    return turns


def timed_row(row: Row, turns: Turns, first: Turns, batch_size: int = 1) -> Row:
    """Add the timings to a row.

    ``relative_time`` is the median over the rounds of the ratio within a round, so a machine that
    is slower for a while does not change it.
    """
    seconds = statistics.median(turns.seconds)
    ratios = [ours / theirs for ours, theirs in zip(turns.seconds, first.seconds, strict=True)]
    return replace(
        row,
        seconds=seconds,
        lowest_seconds=min(turns.seconds),
        highest_seconds=max(turns.seconds),
        per_second=batch_size / seconds,
        relative_time=statistics.median(ratios),
        rounds=len(turns.seconds),
        calls=len(turns.seconds) * turns.calls,
    )


def relative_difference(outputs: Outputs, expected: Outputs) -> float | None:
    """The largest difference, as a fraction of the largest value of the same output."""
    if [array.shape for array in outputs] != [array.shape for array in expected]:
        return math.inf
    differences = [
        np.abs(ours.astype(np.float64) - theirs).max() / np.abs(theirs).max()
        for ours, theirs in zip(outputs, expected, strict=True)
    ]
    return float(np.max(differences)) if differences else None


class Workers(NamedTuple):
    """Processes that measure.

    Attributes:
        named: function from a name to its worker, which starts when it is first asked for.
        folder: where they read and write, which is removed when they have ended: one that is still
            at work would fill it again.
    """

    named: Callable[[str], Worker]
    folder: Path


@contextlib.contextmanager
def started(
    implementations: Mapping[str, Implementation], freed_memory: FreedMemory = "kept"
) -> Iterator[Workers]:
    """Yield the workers of implementations, and end them."""
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:

        def worker(name: str) -> Worker:
            if name not in workers:
                implementation = implementations.get(name) or PRODUCTS[name]
                keeps = implementation.keeps(freed_memory)
                made = Worker(name, implementation, keep_memory=keeps)
                workers[name] = stack.enter_context(contextlib.closing(made))
            return workers[name]

        yield Workers(worker, Path(folder))


def measure(
    work: Work,
    names: Sequence[str],
    workers: Workers,
    pace: Pace,
    *,
    compared: Work | None = None,
    say: Say = lambda _: None,
) -> list[Row]:
    """Measure implementations of one piece of work side by side.

    Args:
        work: the work to time.
        names: names of the implementations; the others are compared with the first.
        workers: what ``started`` yields.
        pace: how often and how long each is timed.
        compared: work whose outputs are compared, if not those of ``work``.
        say: called with what is being done.

    Raises:
        WorkerError: when the first implementation fails, or one breaks down while it is timed.
    """
    rows = {name: replace(work.row(), implementation=name) for name in names}
    folder = Path(tempfile.mkdtemp(dir=workers.folder))
    ready = _build_all(rows, work, compared, workers.named, folder, say)
    products = _build_products(work, workers.named, folder) if work.flops else []
    turns = take_turns([*ready, *products], pace, say)
    peak = min((statistics.median(turns[each.name].seconds) for each in products), default=None)
    for each in ready:
        row = timed_row(rows[each.name], turns[each.name], turns[names[0]], work.batch_size)
        if peak and row.seconds and work.flops:
            row = replace(row, mfu=work.flops / row.seconds / (2 * PRODUCT_SIDE**3 / peak))
        rows[each.name] = replace(row, memory_bytes=each.memory_bytes())
    return list(rows.values())


def _build_all(
    rows: dict[str, Row],
    work: Work,
    compared: Work | None,
    worker: Callable[[str], Worker],
    folder: Path,
    say: Say,
) -> list[Worker]:
    """Return the workers that may be timed; the rows of the others say why not."""
    places = {each: folder / str(number) for number, each in enumerate((compared, work)) if each}
    for each, place in places.items():
        place.mkdir()
        each.write(place)
    judged = compared or work
    ready: list[Worker] = []
    expected: Outputs | None = None
    for name in rows:
        say(f"building {name}")
        try:
            report = worker(name).build(judged, places[judged])
            if expected is None:
                expected = _finite(report, name).outputs
            difference = judged.difference(report.outputs, expected)
            rows[name] = replace(rows[name], difference=difference)
            if difference is not None and not difference <= judged.largest_difference:
                raise WorkerError(
                    f"{name}: its outputs differ from those of {next(iter(rows))} by "
                    f"{difference:.1e}; at most {judged.largest_difference:g} is allowed, so it "
                    "was not timed"
                )
            if compared is not None:
                report = _finite(worker(name).build(work, places[work]), name)
        except WorkerError as error:
            if not ready:
                raise
            kind = SKIPPED if isinstance(error, UnableError) else FAILED
            rows[name] = replace(rows[name], status=f"{kind}: {error}")
            continue
        rows[name] = replace(
            rows[name],
            compile_seconds=report.compile_seconds,
            temporaries_bytes=report.temporaries_bytes,
            status=f"{rows[name].status}, {report.note}" if report.note else rows[name].status,
        )
        ready.append(worker(name))
    return ready


def _finite(report: Report, name: str) -> Report:
    if not all(np.isfinite(output).all() for output in report.outputs):
        raise WorkerError(f"{name}: its outputs are not all finite")
    return report


def _build_products(work: Work, worker: Callable[[str], Worker], folder: Path) -> list[Worker]:
    products = []
    for name, product in PRODUCTS.items():
        if not product.missing():
            with contextlib.suppress(WorkerError):
                worker(name).build(work, folder)
                products.append(worker(name))
    return products
