"""Readers show the same before they are timed, take turns, and what fails is said."""

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from benchmarks import reader_rounds, readers
from benchmarks.photographs import USUAL_SIZE, write_photographs
from benchmarks.reader_processes import Begun, ReaderProcess
from benchmarks.reader_rounds import measure_input
from benchmarks.readers import InputCase
from benchmarks.workers import WorkerError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, 3, USUAL_SIZE)
    return folder


def case(folder: Path, size=(40, 48), **changes) -> InputCase:
    options = {"root": folder, "names": ("0000.jpg", "0002.jpg"), "size": size, "batch_size": 2}
    options |= {"num_workers": 2, "policy": "none", "examples": folder}
    return InputCase(**(options | changes))


def test_photographs_are_photographs_and_the_same_each_time(folder, tmp_path):
    write_photographs(tmp_path, 2, USUAL_SIZE)
    for name in ("0000.jpg", "0001.jpg"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
        # ImageNet's have 110 KB.
        assert 90_000 < (folder / name).stat().st_size < 130_000
    pixels = np.asarray(Image.open(folder / "0000.jpg").convert("L")).astype(float)
    assert pixels.shape == USUAL_SIZE
    assert 25 < pixels.std() < 75
    # Amplitudes fall as 1/f: ten times the frequency has about a hundredth of the power.
    power = np.abs(np.fft.rfft2(pixels)) ** 2
    frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)[None])
    low = power[(frequency > 0.02) & (frequency < 0.03)].mean()
    high = power[(frequency > 0.2) & (frequency < 0.3)].mean()
    assert 30 < low / high < 300


@pytest.mark.parametrize("size", [(40, 48), (224, 224)])
def test_all_readers_show_the_same_parts(folder, size):
    pytest.importorskip("torch")
    from benchmarks.torch_reader import part_of_image

    ours = readers.build_threads(case(folder, size))
    plain = readers.build_plain_loop(case(folder, size))
    assert ours.examples.shape == (3, *size, 3)
    # The same pixels, by other code.
    np.testing.assert_array_equal(ours.examples, plain.examples)
    theirs = [part_of_image(path, box, size) for path, box in case(folder, size).example_parts()]
    difference = np.abs(np.stack(theirs).astype(float) - ours.examples).mean()
    # Where the photograph is decoded at a fraction, its texture is smoothed by another filter.
    assert 0 < difference < (0.2 if size == (224, 224) else 4)
    for reader in (ours, plain):
        reader.close()


def test_ours_takes_batches_of_the_networks_input(folder):
    reader = readers.build_threads(case(folder))
    reader.take(3)
    reader.close()


@pytest.mark.parametrize("policy", ["none", "rand"])
def test_the_plain_loop_reads_as_many_images_as_it_says(folder, monkeypatch, policy):
    resized = []
    resize = Image.Image.resize

    def counted(image, size, *rest):
        resized.append(size)
        return resize(image, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", counted)
    readers.read_plainly(case(folder, policy=policy), 0, 5)
    assert resized == [(48, 40)] * 5


class FakeProcess(ReaderProcess):
    """Reads at once; as timm at half the speed, or as the test says."""

    timm: ClassVar[str] = "slow"
    turns: ClassVar[list[str]] = []
    closed: ClassVar[list[str]] = []

    def __init__(self, name: str, case: InputCase, log: Path) -> None:
        self.name = name
        self.batch_size = case.batch_size

    def begun(self) -> Begun:
        if self.name == "timm" and self.timm == "broken":
            raise WorkerError("timm: no such file")
        is_timm = self.name == "timm"
        shape = (3, 4, 5, 3) if is_timm and self.timm == "other shape" else (3, 5, 4, 3)
        value = 110 if is_timm and self.timm == "wrong" else 100
        return Begun(np.full(shape, value, np.uint8), 1.5)

    def take(self, batches: int) -> float:
        self.turns.append(self.name)
        return batches * self.batch_size / (4.0 if self.name == "timm" else 8.0)

    def close(self) -> None:
        self.closed.append(self.name)


@pytest.fixture
def fake_processes(monkeypatch):
    FakeProcess.turns, FakeProcess.closed = [], []
    monkeypatch.setattr(reader_rounds, "ReaderProcess", FakeProcess)


def test_readers_take_turns_and_are_relative_to_the_first(fake_processes, folder):
    said = []
    names = ["ours", "timm", "plain-loop"]
    result = measure_input(case(folder), names, folder, rounds=4, say=said.append)
    assert result.problems == []
    assert [row.implementation for row in result.rows] == names
    assert [row.images_per_second for row in result.rows] == [8.0, 4.0, 8.0]
    assert [row.relative_time for row in result.rows] == [1.0, 2.0, 1.0]
    row = result.rows[1]
    assert (row.lowest, row.highest, row.rounds) == (4.0, 4.0, 4)
    # Three seconds, but at least as many batches as are read ahead.
    assert row.batches == 8
    assert (row.seconds_to_first_batch, row.mean_difference) == (1.5, 0.0)
    # After two turns each to warm up, every round begins with another.
    assert FakeProcess.turns[6:9] == names
    assert FakeProcess.turns[9:12] == ["timm", "plain-loop", "ours"]
    assert sorted(FakeProcess.closed) == sorted(names)
    assert "round 4 of 4" in said


@pytest.mark.parametrize(
    ("timm", "problem"),
    [
        ("broken", "timm: no such file"),
        ("wrong", "timm: what it reads differs from what ours does by 10.0 of 255"),
        ("other shape", "timm: what it reads differs"),
    ],
)
def test_who_cannot_read_the_same_is_not_timed(fake_processes, monkeypatch, folder, timm, problem):
    monkeypatch.setattr(FakeProcess, "timm", timm)
    result = measure_input(case(folder), ["ours", "timm"], folder, rounds=1)
    assert [row.implementation for row in result.rows] == ["ours"]
    assert problem in result.problems[0]
    assert "timm" not in FakeProcess.turns
    assert "timm" in FakeProcess.closed


def test_without_the_first_there_is_nothing_to_compare(fake_processes, monkeypatch, folder):
    monkeypatch.setattr(FakeProcess, "timm", "broken")
    with pytest.raises(WorkerError, match="no such file"):
        measure_input(case(folder), ["timm", "ours"], folder, rounds=1)
    assert FakeProcess.closed == ["timm"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("name", ["ours", "timm", "plain-loop"])
def test_a_reader_stands_still_between_its_turns(folder, tmp_path, name):
    process = ReaderProcess(name, case(folder), tmp_path / "log")
    try:
        assert process.begun().examples.shape == (3, 40, 48, 3)
        assert process.take(4) > 0
        assert len(processes_of_group(process._process.pid)) >= 3
        wait_for_states(process._process.pid, {"T", "Z"})
    finally:
        process.close()
    wait_for_states(process._process.pid, {"Z"})


@pytest.mark.slow
def test_a_reader_that_dies_is_told_of(folder, tmp_path):
    process = ReaderProcess("ours-threads", case(folder, batch_size=1), tmp_path / "log")
    try:
        process.begun()
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="ours-threads: its process ended with exit code -9"):
            process.take(1)
    finally:
        process.close()


def wait_for_states(group: int, states: set[str], seconds: float = 5.0) -> None:
    """Wait until a group's processes have no other states: a signal takes a moment."""
    deadline = time.monotonic() + seconds
    while not (found := set(processes_of_group(group).values())) <= states:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def processes_of_group(group: int) -> dict[int, str]:
    """The states of all processes of a group, by their ids."""
    states = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group:
            states[int(stat.parent.name)] = state
    return states
