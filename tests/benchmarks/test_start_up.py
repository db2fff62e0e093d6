"""The time to start is that to a command's first line."""

import os
import subprocess
import sys
import time

import pytest

from benchmarks.start_up import run as measure_start
from benchmarks.start_up import seconds_to_first_line


def run(program):
    start = time.perf_counter()
    seconds = seconds_to_first_line((sys.executable, "-c", program), os.environ)
    return seconds, time.perf_counter() - start


def test_until_the_first_line():
    to_first_line, in_all = run("import time; print(1, flush=True); time.sleep(1); print(2)")
    assert to_first_line < in_all - 0.9


def test_without_a_line_until_the_end():
    to_first_line, _ = run("import time; time.sleep(0.5)")
    assert to_first_line > 0.5


def test_a_command_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        run("raise SystemExit(3)")


@pytest.mark.parametrize("rounds", ["0", "-1"])
def test_rounds_must_be_at_least_one(capsys, rounds):
    with pytest.raises(SystemExit) as ended:
        measure_start(["--rounds", rounds])
    assert ended.value.code == 2
    assert f"--rounds is {rounds}; expected at least 1" in capsys.readouterr().err


def test_an_unknown_variant_is_one_line(capsys):
    assert measure_start(["--rounds", "1", "--variant", "botnet_t33"]) == 1
    assert "error: unknown variant 'botnet_t33'" in capsys.readouterr().err


@pytest.mark.slow
def test_all_of_it(capsys):
    assert measure_start(["--rounds", "1", "--variant", "botnet_tiny"]) == 0
    printed = capsys.readouterr().out
    for words in ("botnet predict --help", "added by importing the package", "once more: "):
        assert words in printed
