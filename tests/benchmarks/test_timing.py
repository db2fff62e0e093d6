"""Outputs are compared before anything is timed; all take turns; medians are of the rounds."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from benchmarks import timing
from benchmarks.cases import Case
from benchmarks.implementations import PRODUCT_SIDE
from benchmarks.results import Row
from benchmarks.timing import (
    Pace,
    Turns,
    Workers,
    measure,
    relative_difference,
    take_turns,
    timed_row,
)
from benchmarks.workers import Report, UnableError, WorkerError
from bottleneck_transformer_flax.models.variants import get_config

ROW = Row(benchmark="b", case="c", implementation="i")
SMALL = get_config("botnet_t3", stage_sizes=(1, 1, 1, 1), initial_filters=8, head_dim=16)
CASE = Case(workload="attention", variant="small", config=SMALL, size=(3, 4), batch_size=2)


@dataclass
class Fake:
    """Answers at once, as its name says."""

    name: str
    log: list = field(default_factory=list)

    def build(self, case, folder):
        assert "product" in self.name or (folder / "inputs.npy").exists()
        self.log.append(case.config.dtype)
        if self.name == "broken":
            raise WorkerError("broken: no such operator")
        if self.name == "unable":
            raise UnableError("unable: no parts for this")
        output = np.full((2, 3), 1.1 if self.name == "wrong" else 1.0)
        if self.name == "other shape":
            output = output.T
        gradient = np.full(3, np.nan if self.name == "not finite" else 1.0)
        return Report((output, gradient), 2.0, 7_000_000, "noted" if self.name == "slow" else "")

    def time(self, calls):
        self.log.append((self.name, calls))
        return 0.4 if "slow" in self.name else 0.1

    def memory_bytes(self):
        return 5


def run(*names, compared=None, rounds=3):
    workers = {}
    with TemporaryDirectory() as folder:
        rows = measure(
            CASE,
            names,
            Workers(lambda name: workers.setdefault(name, Fake(name)), Path(folder)),
            Pace(rounds=rounds),
            compared=compared,
        )
    return {row.implementation: row for row in rows}, workers


@pytest.fixture(autouse=True)
def products(monkeypatch):
    monkeypatch.setattr(timing, "PRODUCTS", {})


def test_everyone_takes_a_turn_in_every_round_and_begins_one():
    log, names = [], ("quick", "slow", "third")
    turns = take_turns([Fake(name, log) for name in names], Pace(rounds=3, turn_seconds=1.0))
    order = [names.index(name) for name, _ in log]
    # Two calls each to warm up and to find how many calls a turn takes.
    assert order[:6] == [0, 0, 1, 1, 2, 2]
    assert order[6:] == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert [turns[name].calls for name in names] == [10, 3, 10]
    assert turns["slow"].seconds == [0.4] * 3
    turns = take_turns([Fake("quick")], Pace(rounds=1, turn_seconds=0.0, fewest_calls=8))
    assert turns["quick"].calls == 8


def test_statistics_are_medians_over_the_rounds():
    first = Turns([1.0, 2.0, 9.0], 5)
    row = timed_row(ROW, Turns([2.0, 8.0, 9.0], 7), first, batch_size=4)
    assert (row.seconds, row.lowest_seconds, row.highest_seconds) == (8.0, 2.0, 9.0)
    assert (row.per_second, row.rounds, row.calls) == (0.5, 3, 21)
    # Of the ratios within a round, 2, 4 and 1, and not of the medians.
    assert row.relative_time == 2.0
    assert timed_row(ROW, first, first).relative_time == 1.0


@pytest.mark.parametrize(
    ("came", "expected", "difference"),
    [
        ([[1.0, -4.0]], [[1.5, -4.0]], 0.125),
        ([[1.0], [10.0]], [[1.0], [8.0]], 0.25),
        ([[1.0, 2.0]], [[[1.0], [2.0]]], np.inf),
        ([[1.0]], [[1.0], [1.0]], np.inf),
        ([], [], None),
    ],
)
def test_difference_is_the_largest_as_a_fraction_of_the_scale(came, expected, difference):
    assert relative_difference(*([np.array(x) for x in each] for each in (came, expected))) == (
        difference
    )


def test_rows_are_relative_to_the_first():
    rows, _ = run("quick", "slow")
    assert (rows["quick"].relative_time, rows["slow"].relative_time) == pytest.approx((1, 4))
    assert (rows["quick"].per_second, rows["slow"].per_second) == pytest.approx((20, 5))
    assert (rows["quick"].calls, rows["slow"].calls) == (9, 3)
    assert rows["slow"].status == "measured, noted"
    assert rows["slow"].difference == 0.0
    assert (rows["slow"].memory_bytes, rows["slow"].compile_seconds) == (5, 2.0)
    assert rows["quick"].mfu is None


def test_mfu_is_a_fraction_of_the_fastest_product(monkeypatch):
    monkeypatch.setattr(timing, "PRODUCTS", dict.fromkeys(("product", "slow product"), Fake("p")))
    monkeypatch.setattr(Fake, "missing", lambda _: [], raising=False)
    rows, _ = run("quick")
    assert list(rows) == ["quick"]
    assert rows["quick"].mfu == pytest.approx(CASE.flops / (2 * PRODUCT_SIDE**3))


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("wrong", "failed: wrong: its outputs differ from those of quick by 1.0e-01"),
        ("other shape", "failed: other shape: its outputs differ"),
        ("not finite", "failed: not finite: its outputs differ"),
        ("broken", "failed: broken: no such operator"),
        ("unable", "skipped: unable: no parts"),
    ],
)
def test_whoever_differs_or_breaks_is_not_timed(name, status):
    rows, workers = run("quick", name)
    assert rows["quick"].seconds is not None
    assert rows[name].status.startswith(status)
    assert rows[name].seconds is None
    assert len(workers[name].log) == 1


@pytest.mark.parametrize(("first", "said"), [("broken", "no such operator"), ("not finite", "all")])
def test_without_the_first_there_is_nothing_to_compare_with(first, said):
    with pytest.raises(WorkerError, match=said):
        run(first, "quick")


def test_other_work_can_be_compared_than_is_timed():
    compared = replace(CASE, config=SMALL.replace(dtype="bfloat16"))
    rows, workers = run("quick", "wrong", compared=compared)
    assert rows["quick"].dtype == "float32"
    assert workers["quick"].log[:2] == [compared.config.dtype, CASE.config.dtype]
    assert rows["wrong"].failed and workers["wrong"].log == [compared.config.dtype]
