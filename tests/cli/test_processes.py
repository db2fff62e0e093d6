"""The command line as a person meets it: a process, its signals and its pipes."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from safetensors.numpy import load_file

from cli.conftest import QUICK
from training.tiny import CLASSES, assert_same_bits, colour_images, write_classes, write_data

BOTNET = [sys.executable, "-m", "bottleneck_transformer_flax"]
DEADLINE_SECONDS = 240


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


def finish(process, seconds=DEADLINE_SECONDS):
    try:
        out, err = process.communicate(timeout=seconds)
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


def wait_for_the_end(group):
    """Wait until no process of a group is left."""
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.1)


@pytest.mark.slow
def test_a_quarter_of_make_train_reaches_80_percent(tmp_path):
    """Without the tests' flags, which compile to slower programs; 32 epochs reach 88 %."""
    train = start(tmp_path, "train", "--epochs", "8", "--json", XLA_FLAGS="")
    code, out, err = finish(train, seconds=600)
    assert code == 0, err
    result = json.loads(out)
    assert result["count"] == 1000
    assert result["top1"] >= 0.8


@pytest.mark.slow
def test_a_run_stopped_by_signals_and_resumed_as_it_says_ends_with_the_same_bits(tmp_path):
    write_data(tmp_path / "data")
    options = ("--variant", "botnet_tiny", *QUICK[2:], "--epochs", "30", "--num-workers", "2")
    options += ("--evaluate-every-epochs", "30", "--save-every-epochs", "100")
    train = ("train", "--data", "data", *options, "--run-directory")
    code, _, err = finish(start(tmp_path, *train, "whole"))
    assert code == 0, err

    arguments = [*train, "runs/a b"]
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(tmp_path, *arguments)
        line_with(process.stdout, "epoch ")
        # A terminal sends Ctrl-C to the whole group, and SLURM its SIGTERM.
        os.killpg(process.pid, number)
        code, out, err = finish(process)
        assert (code, err) == (1, "")
        assert "stopping after this step" in out
        assert re.search(r"stopped and saved after step \d+ of 60", out)
        wait_for_the_end(process.pid)
        command = shlex.split(re.search(r"resume with: (.*)", out).group(1))
        assert command[: len(BOTNET)] == BOTNET
        arguments = command[len(BOTNET) :]
        assert arguments == ["train", "--resume", "--run-directory", "runs/a b"]
    code, _, err = finish(start(tmp_path, *arguments))
    assert code == 0, err
    first, second = (
        load_file(tmp_path / run / "pretrained/model.safetensors") for run in ("whole", "runs/a b")
    )
    assert_same_bits(first, second)


@pytest.mark.parametrize("moment", ["importing jax", "computing", "waiting", "packing"])
def test_ctrl_c_ends_a_command_and_its_workers_in_one_line(tmp_path, moment):
    if moment == "waiting":
        process = start(tmp_path, "predict", "-", stdin=subprocess.PIPE, PYTHONUNBUFFERED="1")
        line_with(process.stdout, "model ")
    elif moment == "packing":
        # One worker reads a pipe that nobody writes to, the other packs the rest.
        write_classes(tmp_path / "images", dict.fromkeys(CLASSES, 4))
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "images/cat/slow.png").symlink_to(tmp_path / "pipe")
        options = ["--shards", "13", "--num-workers", "2"]
        process = start(tmp_path, "data", "pack", "images", "out", *options)
        while process.poll() is None and len(list(tmp_path.glob("out/all/part*"))) < 12:
            time.sleep(0.05)
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
    wait_for_the_end(process.pid)


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


@pytest.mark.parametrize(
    ("options", "encoding"),
    [
        ((), "utf-8:strict"),
        pytest.param(("--json",), "utf-8:strict", marks=pytest.mark.slow),
        pytest.param((), "ascii", marks=pytest.mark.slow),
    ],
)
def test_any_file_name_is_printed_in_any_encoding(tmp_path, options, encoding):
    names = ["plain.png", os.fsdecode(b"od\xff\xfed.png")]
    for name, pixels in zip(names, colour_images(2), strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    process = start(tmp_path, "predict", *names, *options, PYTHONIOENCODING=encoding)
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    assert names[0] in out
    assert (json.dumps(names[1]) if options else names[1]) in out
    # The bars' blocks are no characters of ASCII.
    assert ("?" in out) == (encoding == "ascii")


READ_IN_PART = [f"{command} | head -n 1" for command in ("variants", "--help")]


@pytest.mark.parametrize("command", [*READ_IN_PART, "predict - <&-", "predict a.png >&-"])
def test_a_reader_that_leaves_early_and_closed_streams_are_no_traceback(tmp_path, command):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    line = f"{shlex.join(BOTNET)} {command}"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    if command in READ_IN_PART:
        assert (done.stderr, done.stdout.count("\n")) == ("", 1)


def test_where_nobody_reads_standard_output_any_more_the_rest_goes_to_standard_error(tmp_path):
    program = (
        "from bottleneck_transformer_flax.cli.console import LastingConsole, say; "
        "console = LastingConsole(); [say(console, 'x' * 9999) for _ in range(9)]; "
        "say(console, 'the last')"
    )
    line = f"{shlex.join([sys.executable, '-c', program])} | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "x")
    assert "\nnote: nobody reads standard output any more" in done.stderr
    assert done.stderr.endswith("the last\n")
