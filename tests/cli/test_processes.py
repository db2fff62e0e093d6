"""The command line as a person meets it: a process, its signals and its pipes."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from cli.conftest import QUICK

BOTNET = [sys.executable, "-m", "bottleneck_transformer_flax"]
DEADLINE_SECONDS = 240
STOPPING = "stopping after this step; once more to leave without saving\n"


def start(folder, *arguments, stdin=None, **environment):
    return subprocess.Popen(
        [*BOTNET, *arguments],
        cwd=folder,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        start_new_session=True,
        env=os.environ | {"COLUMNS": "100"} | environment,
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
    assert "Traceback" not in out + err, out + err
    return process.returncode, out, err


def line_with(process, text):
    """Read on until a line has the text."""
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"the process ended without {text!r}: {process.stderr.read()}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_the_command_it_prints_goes_on(trained, number):
    # The same options as the run that is there, which was not interrupted, but for the name.
    options = ["--run-directory", "runs/a b", "--save-every-epochs", "100"]
    many = ["--epochs", "200"]
    process = start(trained, "train", "--data", "data", *QUICK, *many, *options)
    line_with(process, "epoch   1/200")
    process.send_signal(number)
    code, out, err = finish(process)
    assert code == 1, err
    assert err == STOPPING
    assert len(out.splitlines()) == len(set(out.splitlines()))
    step = int(re.search(r"stopped and saved after step (\d+) of 400", out).group(1))
    assert 2 <= step < 400
    assert (trained / "runs/a b/checkpoints" / str(step)).is_dir()
    command = re.search(r"go on with: (.*)", out).group(1)
    program, arguments = shlex.split(command)[:3], shlex.split(command)[3:]
    assert program == BOTNET
    assert arguments == ["train", "--resume", "--run-directory", "runs/a b"]
    process = start(trained, *arguments)
    assert f"resume  after step {step} of 400" in line_with(process, "resume")
    line_with(process, "epoch ")
    process.send_signal(number)
    code, out, err = finish(process)
    assert code == 1, err
    assert int(re.search(r"stopped and saved after step (\d+)", out).group(1)) > step


@pytest.mark.slow
def test_a_new_process_computes_the_same_bits(trained, run):
    process = start(trained, "train", "--data", "data", *QUICK, "--run-directory", "again")
    code, out, err = finish(process)
    assert code == 0, err
    assert "again/pretrained" in out
    first, second = (
        load_file(trained / path / "pretrained" / "model.safetensors") for path in (run, "again")
    )
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.slow
def test_worker_processes_are_asked_to_leave_too(trained):
    options = ["--run-directory", "workers", "--num-workers", "2", "--epochs", "500"]
    process = start(trained, "train", "--data", "data", *QUICK, *options)
    line_with(process, "epoch ")
    # Ctrl-C on a terminal reaches the whole group.
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = finish(process)
    assert code == 1, err
    assert "go on with:" in out
    assert err == STOPPING
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("worker processes are still there")


@pytest.mark.parametrize("delay_seconds", [None, 0.0, 0.7])
def test_ctrl_c_ends_it_in_one_line(trained, delay_seconds):
    if delay_seconds is None:
        # Waiting for its standard input, when everything is loaded.
        process = start(trained, "predict", "-", stdin=subprocess.PIPE, PYTHONUNBUFFERED="1")
        line_with(process, "model ")
    else:
        # Somewhere in the imports; the first one is when the command line is there.
        process = start(trained, "predict", "data", PYTHONVERBOSE="1")
        for line in process.stderr:
            if "import 'ml_dtypes'" in line:
                break
        time.sleep(delay_seconds)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 1
    # Python's own account of its imports may be cut off within a line.
    assert err.endswith("botnet: error: interrupted\n")
