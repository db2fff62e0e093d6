"""What a GPU makes of this library: fused attention, T3 beside timm's, T7 beside EfficientNet-B7.

    python -m benchmarks gpu --out FOLDER

One call of less than 8 minutes; it needs jax, flax, optax, torch and timm. The sections come in
order of importance, each is printed as soon as it is measured, and FOLDER/gpu.csv holds all that is
known so far. What there is no time left for is skipped, and --only measures it in a call of its
own. Without a GPU, --small shows at tiny sizes that the script works.
"""

import argparse
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax

from benchmarks.gpu_sections import (
    CORRECTNESS,
    FULL,
    HEADLINE,
    SECTIONS,
    SMALL,
    T3_INFERENCE,
    T3_TRAINING,
    Settings,
)
from benchmarks.implementations import OURS
from benchmarks.options import Results, make_parser
from benchmarks.results import FAILED, MEASURED, NOT_MEASURED, SKIPPED, Row
from bottleneck_transformer_flax.errors import ConfigError

BUDGET_SECONDS = 470.0


class Goal(NamedTuple):
    """How much faster than its peer this library is to be.

    Attributes:
        name: what is asked, in words.
        section: the section that times both.
        ratio: least ratio of the peer's time to ours.
    """

    name: str
    section: str
    ratio: float


GOALS = (
    Goal("T3 inference in bfloat16, timm compiled", T3_INFERENCE, 1.2),
    Goal("T3 training in bfloat16, timm compiled", T3_TRAINING, 1.2),
    Goal("T7 (384) forward + backward, EfficientNet-B7 (600)", HEADLINE, 1.64),
)


def goal_line(goal: Goal, rows: Sequence[Row]) -> str:
    """Whether a goal was met, and by which ratio."""
    asked = f"{goal.name}, goal ≥ {goal.ratio:g}×"
    peers = [
        row
        for row in rows
        if row.benchmark == goal.section and row.implementation not in ("", OURS)
    ]
    if not peers or peers[0].status == NOT_MEASURED:
        return f"{asked}: not measured"
    (peer, *_) = peers
    if peer.relative_time is None:
        return f"{asked}: not measured ({peer.status})"
    met = "met" if peer.relative_time >= goal.ratio else "not met"
    return f"{asked}: {met}, {peer.relative_time:.2f}× at batch {peer.batch_size} ({peer.status})"


def correctness_line(rows: Sequence[Row]) -> str:
    """Whether the fused attention is right on all grids, forward and backward."""
    asked = "fused attention as the reference, forward and gradients"
    checked = [row for row in rows if row.benchmark == CORRECTNESS]
    wrong = [row for row in checked if row.failed]
    if wrong:
        return f"{asked}: not met, {len(wrong)} of {len(checked)} comparisons failed"
    if not checked or any(row.status != MEASURED for row in checked):
        return f"{asked}: not measured"
    return f"{asked}: met"


def measure_sections(
    names: Sequence[str],
    settings: Settings,
    results: Results[Row],
    started_at: float,
    budget_seconds: float,
) -> None:
    """Run the sections that the budget has time for; the CSV is whole after each.

    Args:
        names: names of sections, in order.
        settings: what is measured at which sizes.
        results: where the rows go.
        started_at: when the budget began, by ``time.monotonic``.
        budget_seconds: a section that would probably end later than this is skipped.
    """
    for name in names:
        began = time.monotonic()
        passed, row = began - started_at, Row(benchmark=name, case="all")
        expected = SECTIONS[name].expected_seconds if settings.status == MEASURED else 0.0
        if passed + expected > budget_seconds:
            why = (
                f"{SKIPPED}: {passed:.0f} of {budget_seconds:g} seconds had passed, and it may "
                f"take {expected:.0f}; --only {name} measures it in a call of its own"
            )
            section = [replace(row, status=why)]
        else:
            try:
                section = SECTIONS[name].measure(settings)
            except Exception as error:
                traceback.print_exc()
                line = next(iter(str(error).splitlines()), "")
                section = [replace(row, status=f"{FAILED}: {type(error).__name__}: {line[:200]}")]
        print(f"{name}: {time.monotonic() - began:.0f} s")
        results.add(section)


def run(arguments: Sequence[str]) -> int:
    """Measure the sections; 1 where something failed, which its row says."""
    started_at = time.monotonic()
    options = _options(arguments)
    if not options.small and jax.default_backend() != "gpu":
        raise ConfigError(
            "jax finds no GPU, which the full sizes need; install jax for this GPU, or pass "
            "--small to see that the script works"
        )
    results = Results[Row](options, "gpu")
    settings = SMALL if options.small else FULL
    names = [name for name in SECTIONS if name in (options.only or SECTIONS)]
    measure_sections(names, settings, results, started_at, options.budget_seconds)
    goals = [goal_line(goal, results.rows) for goal in GOALS]
    return results.finish(correctness_line(results.rows), *goals)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("gpu", __doc__)
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny sizes, on a CPU too: shows that the script works and measures nothing",
    )
    parser.add_argument(
        "--budget-seconds",
        type=float,
        default=BUDGET_SECONDS,
        metavar="SECONDS",
        help="a section that would probably end later than this after the start is skipped "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS)
    )
    return parser.parse_args(arguments)
