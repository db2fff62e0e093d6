"""Readers of training images side by side: compared, then timed in turns."""

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.reader_processes import Begun, ReaderProcess
from benchmarks.readers import InputCase, ReaderName
from benchmarks.rounds import rotated
from benchmarks.workers import WorkerError

LARGEST_DIFFERENCE = 3.0
"""Of the examples from the first reader's, in the mean, of values in [0, 255]. Readers that cut a
part out before they resize it know nothing of its surroundings."""
_SECONDS_A_TURN = 3.0
# As many as any reader has ahead when its first batch is there.
_BATCHES_TO_SETTLE = 8


@dataclass(frozen=True, kw_only=True)
class InputRow:
    """What was measured of one reader.

    Attributes:
        policy: of the case.
        height: of the images read; ``width`` alike.
        batch_size: of the case.
        num_workers: of the case.
        implementation: the reader's name.
        images_per_second: median of its turns; ``lowest`` and ``highest`` alike.
        relative_time: the first reader's rate ÷ this one's.
        seconds_to_first_batch: from when its process is there.
        mean_difference: of its examples from the first reader's, of values in [0, 255].
        rounds: turns that it had.
        batches: in each of them.
    """

    policy: str
    height: int
    width: int
    batch_size: int
    num_workers: int
    implementation: str
    images_per_second: float
    lowest: float
    highest: float
    relative_time: float
    seconds_to_first_batch: float
    mean_difference: float
    rounds: int
    batches: int


class InputResult(NamedTuple):
    """The rows of all readers that were timed, and in words what went wrong with the others."""

    rows: list[InputRow]
    problems: list[str]


class _Ready(NamedTuple):
    process: ReaderProcess
    begun: Begun
    difference: float


def measure_input(
    case: InputCase,
    names: Sequence[ReaderName],
    folder: Path,
    *,
    rounds: int,
    say: Callable[[str], None] = lambda _: None,
) -> InputResult:
    """Measure readers of the same files beside each other.

    Args:
        case: what to read.
        names: of readers whose packages are installed; the others are compared with the first.
        folder: for what they print.
        rounds: turns that each of them has.
        say: told what is being done.

    Raises:
        WorkerError: when the first reader cannot read, or one breaks down while it is timed.
    """
    with ExitStack() as stack:
        problems: list[str] = []
        ready: list[_Ready] = []
        for name in names:
            say(f"starting {name}")
            log = folder / f"{name}.log"
            process = stack.enter_context(closing(ReaderProcess(name, case, log)))
            try:
                begun = process.begun()
            except WorkerError as error:
                if not ready:
                    raise
                problems.append(str(error))
                continue
            difference = _difference(begun, ready[0].begun if ready else begun)
            if difference <= LARGEST_DIFFERENCE:
                ready.append(_Ready(process, begun, difference))
            else:
                problems.append(
                    f"{name}: what it reads differs from what {ready[0].process.name} does by "
                    f"{difference:.1f} of 255 in the mean; at most {LARGEST_DIFFERENCE:g} is "
                    "allowed, so it was not timed"
                )
        return InputResult(_take_turns(case, ready, rounds, say), problems)


def _difference(begun: Begun, first: Begun) -> float:
    if begun.examples.shape != first.examples.shape:
        return math.inf
    return float(np.abs(begun.examples.astype(float) - first.examples).mean())


def _take_turns(
    case: InputCase, ready: Sequence[_Ready], rounds: int, say: Callable[[str], None]
) -> list[InputRow]:
    batches: dict[str, int] = {}
    for each in ready:
        say(f"warming {each.process.name}")
        each.process.take(_BATCHES_TO_SETTLE)
        seconds = each.process.take(_BATCHES_TO_SETTLE) / _BATCHES_TO_SETTLE
        batches[each.process.name] = max(_BATCHES_TO_SETTLE, math.ceil(_SECONDS_A_TURN / seconds))
    rates: dict[str, list[float]] = {name: [] for name in batches}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for each in rotated(ready, number):
            count = batches[each.process.name]
            rate = count * case.batch_size / each.process.take(count)
            rates[each.process.name].append(rate)
    fastest = statistics.median(rates[ready[0].process.name])
    return [_row(case, each, rates[each.process.name], fastest, batches) for each in ready]


def _row(
    case: InputCase,
    ready: _Ready,
    rates: Sequence[float],
    first: float,
    batches: dict[str, int],
) -> InputRow:
    rate = statistics.median(rates)
    return InputRow(
        policy=case.policy,
        height=case.size[0],
        width=case.size[1],
        batch_size=case.batch_size,
        num_workers=case.num_workers,
        implementation=ready.process.name,
        images_per_second=rate,
        lowest=min(rates),
        highest=max(rates),
        relative_time=first / rate,
        seconds_to_first_batch=ready.begun.seconds,
        mean_difference=ready.difference,
        rounds=len(rates),
        batches=batches[ready.process.name],
    )
