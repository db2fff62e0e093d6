"""The benchmarks' command line, called in this process, and what it leaves."""

import contextlib
import csv
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.__main__ import main


class Called(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        return Called(code, *capfd.readouterr())

    return run


@pytest.fixture
def read_csv():
    def read(path):
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture
def wait_for_states():
    """Waits until the living processes of a group or session are in no other states, as of ``ps``.

    A signal takes a moment. Returns how many processes there are.
    """

    def states(number):
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, *group_and_session = path.read_text().rpartition(") ")[2].split()[:4]
                if str(number) in group_and_session and state != "Z":
                    yield state

    def wait(number, expected, seconds=10.0):
        deadline = time.monotonic() + seconds
        while not set(found := list(states(number))) <= expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
        return len(found)

    return wait
