"""The command line as a person meets it: a process, its signals and its pipes."""

import contextlib
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from cli.conftest import QUICK
from training.tiny import write_classes

BOTNET = [sys.executable, "-m", "bottleneck_transformer_flax"]
DEADLINE_SECONDS = 240
STOPPING = "stopping after this step; press Ctrl-C again to leave without saving"
# A process of its own doesn't know the tests' small variant.
TRAIN = ["train", "--data", "data", "--variant", "botnet_tiny", *QUICK[2:]]


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


def line_with(stream, text):
    """Read on until a line has the text."""
    for line in stream:
        if text in line:
            return line
    raise AssertionError(f"the process ended without {text!r}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_the_command_it_prints_goes_on(trained, number):
    # The same options as the run that is there, which was not interrupted, but for the name.
    options = ["--run-directory", "runs/a b", "--save-every-epochs", "100"]
    many = ["--epochs", "200"]
    process = start(trained, *TRAIN, *many, *options)
    line_with(process.stdout, "epoch   1/200")
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, err) == (1, "")
    assert STOPPING in out
    assert len(out.splitlines()) == len(set(out.splitlines()))
    step = int(re.search(r"stopped and saved after step (\d+) of 400", out).group(1))
    assert 2 <= step < 400
    assert (trained / "runs/a b/checkpoints" / str(step)).is_dir()
    command = re.search(r"resume with: (.*)", out).group(1)
    program, arguments = shlex.split(command)[:3], shlex.split(command)[3:]
    assert program == BOTNET
    assert arguments == ["train", "--resume", "--run-directory", "runs/a b"]
    process = start(trained, *arguments)
    assert f"resume  after step {step} of 400" in line_with(process.stdout, "resume")
    line_with(process.stdout, "epoch ")
    process.send_signal(number)
    code, out, err = finish(process)
    assert code == 1, err
    assert int(re.search(r"stopped and saved after step (\d+)", out).group(1)) > step


@pytest.mark.slow
def test_a_new_process_computes_the_same_bits(call, trained):
    assert call(*TRAIN, "--run-directory", "here").code == 0
    code, out, err = finish(start(trained, *TRAIN, "--run-directory", "again"))
    assert code == 0, err
    assert "again/pretrained" in out
    first, second = (
        load_file(trained / path / "pretrained" / "model.safetensors") for path in ("here", "again")
    )
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.slow
def test_worker_processes_are_asked_to_leave_too(trained):
    options = ["--run-directory", "workers", "--num-workers", "2", "--epochs", "500"]
    process = start(trained, *TRAIN, *options)
    line_with(process.stdout, "epoch ")
    # Ctrl-C on a terminal reaches the whole group.
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = finish(process)
    assert (code, err) == (1, "")
    assert "resume with:" in out
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("worker processes are still there")


@pytest.mark.parametrize("moment", ["importing jax", "computing", "waiting", "packing"])
def test_ctrl_c_ends_a_command_and_its_workers_in_one_line(tmp_path, moment):
    write_classes(tmp_path / "images", {"ant": 400})
    if moment == "waiting":
        process = start(tmp_path, "predict", "-", stdin=subprocess.PIPE, PYTHONUNBUFFERED="1")
        line_with(process.stdout, "model ")
    elif moment == "packing":
        process = start(tmp_path, "data", "pack", "images", "packed", "--num-workers", "2")
        while not list(tmp_path.glob("packed/*/.*.new")):
            assert process.poll() is None
    else:
        options = ["--num-workers", "2", "--batch-size", "1"]
        process = start(tmp_path, "evaluate", *options, PYTHONVERBOSE="1")
        line_with(process.stderr, "import 'ml_dtypes'")
        if moment == "computing":
            # The workers' own module; what comes after it is compiling and computing.
            line_with(process.stderr, "import 'multiprocessing.connection'")
    # A terminal sends it to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 1
    # Python's own account of its imports may be cut off within a line.
    assert err.endswith("botnet: error: interrupted\n")
    assert "Exception ignored" not in err
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    if moment == "packing":
        assert finish(start(tmp_path, "data", "pack", "images", "packed"))[0] == 0
        assert list(tmp_path.glob("packed/**/.*.new")) == []


def test_ctrl_c_on_a_terminal_shows_the_cursor_again(tmp_path):
    # A thousand images one at a time: long enough for the bar to be there.
    terminal, side_of_process = pty.openpty()
    process = subprocess.Popen(
        [*BOTNET, "evaluate", "--checkpoint", "botnet_tiny", "--batch-size", "1"],
        cwd=tmp_path,
        stdin=side_of_process,
        stdout=side_of_process,
        stderr=side_of_process,
        start_new_session=True,
        env=os.environ | {"COLUMNS": "100", "TERM": "xterm"},
    )
    os.close(side_of_process)
    said = b""
    with contextlib.suppress(OSError):  # how Linux tells that the other side is closed
        while part := os.read(terminal, 4096):
            said += part
            if b"evaluating" in said and process.poll() is None:
                process.send_signal(signal.SIGINT)
    os.close(terminal)
    assert process.wait(DEADLINE_SECONDS) == 1
    hide, show = b"\x1b[?25l", b"\x1b[?25h"
    assert said.rindex(show) > said.rindex(hide)
    assert said.endswith(b"botnet: error: interrupted\r\n")


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_name_that_is_no_text_is_predicted_too(trained, run, form):
    odd = os.fsdecode(b"od\xff\xfed.png")
    shutil.copy(trained / "data/val/ant/0.png", trained / odd)
    options = ["--json"] if form == "json" else []
    # As in every UTF-8 locale but C's own.
    process = start(
        trained,
        "predict",
        "data/val/bee/1.png",
        odd,
        *options,
        PYTHONIOENCODING="utf-8:strict",
    )
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    assert out.count("ant") == 2


def test_a_reader_that_leaves_early_is_no_error_message(tmp_path):
    for command in ("variants", "variants --json", "--help"):
        line = f"{shlex.join(BOTNET)} {command} | head -n 1"
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1


def test_a_terminal_without_our_characters(trained, run):
    process = start(trained, "predict", "data/val/ant/0.png", PYTHONIOENCODING="ascii")
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    assert "?" in out


def test_without_standard_input_and_output(trained, run):
    words = [*map(shlex.quote, BOTNET)]
    for command in ("predict - <&-", "variants >&-"):
        done = subprocess.run(
            f"{' '.join(words)} {command}",
            shell=True,
            cwd=trained,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        assert "Traceback" not in done.stderr, done.stderr


def test_python_m_is_the_command(tmp_path):
    code, out, err = finish(start(tmp_path, "--help"))
    assert (code, err) == (0, "")
    assert out.startswith("usage: botnet")
