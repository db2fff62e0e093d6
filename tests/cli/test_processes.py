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


@pytest.mark.slow
@pytest.mark.parametrize("delay_seconds", [0.5, 3.0, 9.0])
def test_an_interrupted_benchmark_leaves_no_process_and_no_folder(tmp_path, delay_seconds):
    """While its processes begin, build, or take turns; Ctrl-C reaches all of them."""
    (tmp_path / "temporary").mkdir()
    options = ["--variant", "botnet_s1_50", "--image-size", "64", "64", "--rounds", "1000"]
    temporary = {"TMPDIR": str(tmp_path / "temporary")}
    process = start(
        tmp_path, "benchmark", "inference", *options, "--implementations", "ours", **temporary
    )
    while not list((tmp_path / "temporary").iterdir()):
        time.sleep(0.05)
    time.sleep(delay_seconds)
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out, err) == (1, "", "botnet: error: interrupted\n")
    assert list((tmp_path / "temporary").iterdir()) == []
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def test_ctrl_c_on_a_terminal_gives_the_cursor_back(trained):
    # A thousand images one at a time: long enough for the bar to be there.
    terminal, side_of_process = pty.openpty()
    process = subprocess.Popen(
        [*BOTNET, "evaluate", "--checkpoint", "botnet_tiny", "--batch-size", "1"],
        cwd=trained,
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


def test_help_needs_no_jax(tmp_path):
    program = (
        "import sys; from bottleneck_transformer_flax.cli import COMMANDS, main\n"
        "for words in (['--help'], *([command, '--help'] for command in COMMANDS)):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "    assert not {'jax', 'flax'} & set(sys.modules), f'{words} imported jax'"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
