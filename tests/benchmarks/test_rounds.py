"""Implementations agree before they are timed, take turns, and what fails is said."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from benchmarks import rounds
from benchmarks.cases import Case, write_case
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.workers import Report, Worker, WorkerError
from bottleneck_transformer_flax.models.variants import get_config

SMALL = get_config("botnet_t3", stage_sizes=(1, 1, 1, 1), initial_filters=8, head_dim=16)


def small_case(workload):
    size = (3, 4) if workload.startswith("attention") else (48, 64)
    return Case(workload=workload, variant="small", config=SMALL, size=size, batch_size=2)


class FakeWorker(Worker):
    """Answers at once, as its name says."""

    started: ClassVar[list["FakeWorker"]] = []
    broken: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, case: Case, folder: Path, freed_memory: str) -> None:
        self.name = name
        self.turns: list[int] = []
        self.closed = False
        self.started.append(self)

    def report(self) -> Report:
        if self.name in ("broken", *self.broken):
            raise WorkerError("broken: no such operator")
        output = np.full((2, 3), 1.1 if self.name == "wrong" else 1.0)
        if self.name == "other shape":
            output = output.T
        if self.name == "not a number":
            output = output * np.nan
        gradient = np.full(3, np.nan if self.name == "no gradient" else 1.0)
        return Report((output, gradient), 2.0, 7_000_000)

    def time(self, calls: int) -> list[float]:
        self.turns.append(calls)
        return [0.4 if self.name == "slow" else 0.1] * calls

    def peak_memory_bytes(self) -> int:
        return 5_000_000

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake_workers(monkeypatch):
    FakeWorker.started = []
    monkeypatch.setattr(rounds, "Worker", FakeWorker)
    return FakeWorker.started


def test_rows_are_relative_to_the_first(fake_workers):
    result = rounds.measure(small_case("inference"), ["quick", "slow"], rounds=3)
    quick, slow = result.rows
    assert not result.problems
    assert (quick.implementation, slow.implementation) == ("quick", "slow")
    assert (quick.relative_time, slow.relative_time) == pytest.approx((1, 4))
    assert (quick.images_per_second, slow.images_per_second) == pytest.approx((20, 5))
    assert (quick.rounds, quick.calls) == (3, 9)
    assert (slow.rounds, slow.calls) == (3, 3)
    assert quick.fraction_of_peak == pytest.approx(4 * slow.fraction_of_peak)
    assert quick.fraction_of_peak == pytest.approx(
        small_case("inference").floating_point_operations() / (2 * 2048**3)
    )
    assert all(worker.closed for worker in fake_workers)


def test_whoever_differs_or_breaks_is_not_timed(fake_workers):
    names = ["quick", "wrong", "other shape", "not a number", "no gradient", "broken"]
    result = rounds.measure(small_case("inference"), names, rounds=2)
    assert [row.implementation for row in result.rows] == ["quick"]
    assert len(result.problems) == 5
    assert result.problems[3].startswith("no gradient: its outputs differ")
    assert "wrong: its outputs differ from those of quick by 1.0e-01" in result.problems[0]
    assert result.problems[4] == "broken: no such operator"
    for worker in fake_workers:
        assert bool(worker.turns) == (worker.name in ("quick", "product", "torch-product"))
        assert worker.closed


def test_products_that_break_leave_no_peak_or_the_others(fake_workers, monkeypatch):
    monkeypatch.setattr(FakeWorker, "broken", ("torch-product",))
    result = rounds.measure(small_case("inference"), ["quick"], rounds=2)
    assert result.rows[0].fraction_of_peak is not None
    assert len(result.problems) == 1
    monkeypatch.setattr(FakeWorker, "broken", ("torch-product", "product"))
    result = rounds.measure(small_case("inference"), ["quick"], rounds=2)
    assert result.rows[0].fraction_of_peak is None


@pytest.mark.parametrize("first", ["not a number", "no gradient"])
def test_a_first_that_gives_no_numbers_is_an_error(fake_workers, first):
    with pytest.raises(WorkerError, match=f"{first}: its outputs are not finite"):
        rounds.measure(small_case("inference"), [first, "quick"], rounds=2)
    assert all(worker.closed for worker in fake_workers)


def test_without_the_first_there_is_nothing_to_compare_with(fake_workers):
    with pytest.raises(WorkerError, match="no such operator"):
        rounds.measure(small_case("inference"), ["broken", "quick"], rounds=2)
    assert all(worker.closed for worker in fake_workers)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("peer", "workload"),
    [
        pytest.param(peer, name, marks=pytest.mark.slow if name == "training" else ())
        for peer in ("ours-remat", "reference", "timm")
        for name in IMPLEMENTATIONS[peer].workloads
    ],
)
def test_implementations_give_the_same(tmp_path, peer, workload):
    """In this process; what their workers would compare."""
    case = small_case(workload)
    write_case(case, tmp_path)
    ours, theirs = (IMPLEMENTATIONS[name].build(case, tmp_path) for name in ("ours", peer))
    reports = [Report(*built[1:]) for built in (ours, theirs)]
    assert rounds._difference(*reports) <= 1e-5
    for built in (ours, theirs):
        assert min(np.abs(output).max() for output in built.outputs) > 0.01
        built.call()


@pytest.mark.slow
def test_workers_measure_and_end():
    result = rounds.measure(small_case("inference"), ["ours", "timm"], rounds=2)
    assert not result.problems
    assert [row.implementation for row in result.rows] == ["ours", "timm"]
    for row in result.rows:
        assert 0 < row.p50_seconds <= row.p95_seconds
        assert row.peak_memory_bytes > 1e7


@pytest.mark.parametrize(
    ("freed_memory", "keepers"),
    [
        ("kept", set(IMPLEMENTATIONS)),
        ("kept-by-ours", {"ours", "ours-remat", "reference"}),
        ("given-back", set()),
    ],
)
def test_who_keeps_freed_memory(freed_memory, keepers):
    assert {name for name, each in IMPLEMENTATIONS.items() if each.keeps(freed_memory)} == keepers


@pytest.mark.slow
def test_a_worker_that_is_killed_says_so(tmp_path):
    case = small_case("attention")
    write_case(case, tmp_path)
    worker = Worker("ours", case, tmp_path, "kept")
    worker.report()
    worker._process.kill()
    worker._process.join()
    for ask in (lambda: worker.time(1), worker.peak_memory_bytes):
        with pytest.raises(WorkerError, match="ours: its process ended with exit code -9"):
            ask()
    worker.close()


@pytest.mark.slow
def test_a_worker_that_cannot_build_says_why():
    case = Case(
        workload="inference",
        variant="botnet_tiny",
        config=get_config("botnet_tiny"),
        size=(28, 28),
        batch_size=1,
    )
    result = rounds.measure(case, ["ours", "timm"], rounds=1)
    assert [row.implementation for row in result.rows] == ["ours"]
    assert not result.problems
    assert result.unable[0].startswith("timm: timm has no parts")
