"""What a GPU makes of this library: fused attention, T3 beside timm's, T7 beside EfficientNet-B7.

    python -m benchmarks gpu --out FOLDER

One call, of less than 8 minutes, from a checkout; it needs jax, flax, optax, torch and timm. The
sections come in order of importance, each is printed as soon as it is measured, and FOLDER/gpu.csv
holds all that is known so far. What there is no time left for is skipped, and --only measures it in
a call of its own. Without a GPU, --small shows at tiny sizes that the script works.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks import conditions as circumstances
from benchmarks.gpu_attention import CORRECTNESS, SPEED, check, measure_speed
from benchmarks.gpu_measure import Row, one_line
from benchmarks.gpu_memory import free_memory
from benchmarks.gpu_networks import (
    HEADLINE,
    OURS,
    T3_INFERENCE,
    T3_TRAINING,
    measure_headline,
    measure_t3_inference,
    measure_t3_training,
)
from benchmarks.gpu_peers import TIMM
from benchmarks.gpu_settings import FULL, MEASURED, SMALL, Settings
from benchmarks.gpu_table import table_text
from benchmarks.report import csv_text
from bottleneck_transformer_flax.files import write_text


class Section(NamedTuple):
    """A part of the script.

    Attributes:
        measure: its rows at given sizes.
        expected_seconds: about how long it takes at full sizes, compiling included; an estimate
            that is rather too long.
    """

    measure: Callable[[Settings], list[Row]]
    expected_seconds: float


SECTIONS: Mapping[str, Section] = {
    CORRECTNESS: Section(check, 60),
    SPEED: Section(measure_speed, 50),
    T3_INFERENCE: Section(measure_t3_inference, 90),
    HEADLINE: Section(measure_headline, 220),
    T3_TRAINING: Section(measure_t3_training, 150),
}
PACKAGES = (
    *circumstances.OURS,
    "jaxlib",
    "optax",
    "torch",
    "timm",
    "triton",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
BUDGET_SECONDS = 470.0
SKIPPED, FAILED = "skipped", "failed"


class Goal(NamedTuple):
    """How much faster than its peer this library is to be.

    Attributes:
        name: in words.
        section: in which both are timed.
        ratio: of the peer's time to ours, at least.
    """

    name: str
    section: str
    ratio: float


GOALS = (
    Goal("T3 inference in bfloat16, timm compiled", T3_INFERENCE, 1.2),
    Goal("T3 training in bfloat16, timm compiled", T3_TRAINING, 1.2),
    Goal("T7 (384) forward + backward, EfficientNet-B7 (600)", HEADLINE, 1.64),
)


def goal_line(goal: Goal, rows: Sequence[Row], batch_size: int) -> str:
    """Whether a goal was met, and by which ratio.

    Args:
        goal: what is asked.
        rows: all that is known.
        batch_size: that it is asked at; the line says where it was measured at another.
    """
    asked = f"{goal.name}, goal ≥ {goal.ratio:g}×"
    of_peer = [
        row for row in rows if row.section == goal.section and row.implementation not in ("", OURS)
    ]
    peer = of_peer[0] if of_peer else None
    if peer is None or peer.relative_time is None:
        return f"{asked}: not measured"
    ratio = f"{peer.relative_time:.2f}×"
    if peer.status.startswith(FAILED):
        return f"{asked}: not met, {ratio} ({peer.status})"
    if peer.status != MEASURED:
        return f"{asked}: not measured (a trial at small sizes)"
    at = "" if peer.batch_size == batch_size else f" at batch {peer.batch_size}"
    met = "met" if peer.relative_time >= goal.ratio else "not met"
    beside = "" if peer.implementation == TIMM else f" ({peer.implementation})"
    return f"{asked}: {met}, {ratio}{at}{beside}"


def correctness_line(rows: Sequence[Row]) -> str:
    """Whether the fused attention is right, on all grids, forward and backward."""
    asked = "fused attention as the reference, forward and gradients"
    checked = [row for row in rows if row.section == CORRECTNESS]
    wrong = [row for row in checked if row.status.startswith(FAILED)]
    if wrong:
        return f"{asked}: not met, {len(wrong)} of {len(checked)} comparisons failed"
    if not checked or any(row.status != MEASURED for row in checked):
        return f"{asked}: not measured"
    return f"{asked}: met"


def measure(
    names: Sequence[str], settings: Settings, started: float, budget_seconds: float, out: Path
) -> list[Row]:
    """Run the sections that the budget has time for; the CSV is whole after each.

    Args:
        names: of sections, in order.
        settings: at what sizes.
        started: when the budget began, by ``time.monotonic``.
        budget_seconds: from then on; what would probably end later is skipped.
        out: the folder of the CSV.
    """
    conditions = circumstances.conditions(PACKAGES)
    by_section = {
        name: [Row(section=name, case="all", quantity="all", status="not run")] for name in names
    }

    def rows() -> list[Row]:
        return [row for of_section in by_section.values() for row in of_section]

    write_text(out / "gpu.csv", csv_text(rows(), conditions))
    for name in names:
        began = time.monotonic()
        row = by_section[name][0]
        expected = SECTIONS[name].expected_seconds if settings.full_size else 0.0
        if began - started + expected > budget_seconds:
            status = skipped(name, began - started, expected, budget_seconds)
            by_section[name] = [replace(row, status=status)]
        else:
            try:
                by_section[name] = SECTIONS[name].measure(settings)
            except Exception as error:
                traceback.print_exc()
                by_section[name] = [replace(row, status=one_line(error))]
            free_memory()
        write_text(out / "gpu.csv", csv_text(rows(), conditions))
        seconds, passed = time.monotonic() - began, time.monotonic() - started
        print(f"{name}: {seconds:.0f} s, {passed:.0f} s since the start")
        print(table_text(by_section[name]) + "\n", flush=True)
    return rows()


def skipped(name: str, passed: float, expected: float, budget_seconds: float) -> str:
    """The status of a section that would not end in time."""
    return (
        f"{SKIPPED}: {passed:.0f} seconds had passed, of {budget_seconds:g}, and it may take "
        f"{expected:.0f}; --only {name} measures it in a call of its own"
    )


def run(arguments: Sequence[str] | None = None, started: float | None = None) -> int:
    """The command; 0 when it is done, 1 when something failed, which its row says.

    Args:
        arguments: of the command line; by default this process's.
        started: when its budget began, by ``time.monotonic``; by default now.
    """
    started = time.monotonic() if started is None else started
    options = _options(arguments)
    if not options.small and jax.default_backend() != "gpu":
        print(
            "gpu.py: error: jax finds no GPU, which the full sizes need; install jax for this GPU, "
            "or pass --small to see that the script works",
            file=sys.stderr,
        )
        return 1
    settings = SMALL if options.small else FULL
    names = [name for name in SECTIONS if name in (options.only or SECTIONS)]
    try:
        rows = measure(names, settings, started, options.budget_seconds, options.out)
    except OSError as error:
        print(f"gpu.py: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"written: {options.out / 'gpu.csv'}")
    print(correctness_line(rows))
    for goal in GOALS:
        batch_size = settings.t7_batch if goal.section == HEADLINE else settings.t3_batch
        print(goal_line(goal, rows, batch_size))
    return int(any(row.status.startswith(FAILED) for row in rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", required=True, help="where gpu.csv goes"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny sizes, on a CPU too: shows that the script works and measures nothing",
    )
    parser.add_argument(
        "--budget-seconds",
        type=_seconds,
        default=BUDGET_SECONDS,
        metavar="SECONDS",
        help="a section that would probably end later than this after the start is skipped "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS)
    )
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 on")
    return seconds
