"""The command in two processes of this machine: one run, whoever goes on with it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from bottleneck_transformer_flax.training.run_directory import RunDirectory
from training.tiny import write_data

pytestmark = pytest.mark.slow

# Every epoch is a step, so that the rows of metrics.jsonl are those of steps.
STEPS = 20
TOLERANCE = 1e-5
# At 16 × 16 the last stages have one position, and a ReLU that is zero but for rounding shows.
OPTIONS = ("--recipe", "image-folder", "--variant", "botnet_tiny", "--num-workers", "0")
OPTIONS += ("--image-size", "32", "32")
OPTIONS += ("--batch-size", "12", "--epochs", STEPS, "--warmup-epochs", "2")
OPTIONS += ("--optimizer", "sgd", "--learning-rate", "0.02", "--evaluate-every-epochs", "10")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("many") / "data")


COMMAND = ("-m", "bottleneck_transformer_flax")
# The command where it takes longer to list the images than a collective waits for another process.
LATE_COMMAND = """
import sys, time
from bottleneck_transformer_flax.cli import main
from bottleneck_transformer_flax.training import setup

make_setup = setup.make_setup
def make_setup_late(*arguments):
    time.sleep(33)
    return make_setup(*arguments)

setup.make_setup = make_setup_late
sys.exit(main(sys.argv[1:]))
"""


def start(run, count, *arguments, last=(), last_command=COMMAND):
    """The processes of a run, one device each, with their output in files.

    The last one may have more arguments, or be another command.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    one_device = os.environ["XLA_FLAGS"].replace("count=2", "count=1")
    for number in range(count):
        together = ("--coordinator", f"localhost:{port}", "--num-processes", count)
        together += ("--process-id", number, *(last if number == count - 1 else ()))
        program = last_command if number == count - 1 else COMMAND
        command = [sys.executable, *program, "train", *arguments]
        command += ["--run-directory", run, *(together if count > 1 else ())]
        with run.with_name(f"{run.name}-{number}.txt").open("a") as output:
            processes.append(
                subprocess.Popen(
                    list(map(str, command)),
                    env=os.environ | {"XLA_FLAGS": one_device, "PYTHONUNBUFFERED": "1"},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def said(run, number=0):
    return run.with_name(f"{run.name}-{number}.txt").read_text()


def end(processes, code=0, seconds=300):
    for process in processes:
        assert process.wait(seconds) == code, process.args


def rows(run):
    return [json.loads(line) for line in RunDirectory(run).metrics.read_text().splitlines()]


def wait_for_row(run, processes, count=5):
    while not (RunDirectory(run).metrics.exists() and len(rows(run)) >= count):
        assert all(process.poll() is None for process in processes), said(run)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    end(start(run, 1, "--data", data, *OPTIONS))
    return run


def assert_same_run(run, expected):
    theirs, ours = rows(expected), rows(run)
    assert len(ours) == STEPS
    losses = np.array([[row["train_loss"] for row in each] for each in (ours, theirs)])
    difference = np.abs(losses[0] - losses[1]).max()
    print(f"largest difference of a step's loss: {difference:.1e}")
    assert difference <= TOLERANCE
    evaluations = [
        json.loads(RunDirectory(each).evaluation.read_text()) for each in (run, expected)
    ]
    assert evaluations[0]["count"] == evaluations[1]["count"] == 9
    assert evaluations[0]["per_class"] == evaluations[1]["per_class"]


@pytest.mark.parametrize("more", [(), ("--shard-parameters",)], ids=["replicated", "sharded"])
def test_two_processes_have_the_losses_of_one(data, alone, tmp_path, more):
    run = tmp_path / "run"
    end(start(run, 2, "--data", data, *OPTIONS, *more))
    assert_same_run(run, alone)
    assert "validation accuracy" in said(run, 0)
    assert "epoch" not in said(run, 1)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_in_another_number_of_processes(data, alone, tmp_path, before, after):
    run = tmp_path / "run"
    processes = start(run, before, "--data", data, *OPTIONS)
    wait_for_row(run, processes)
    # One of them is told; all leave after the same step.
    processes[-1].send_signal(signal.SIGTERM)
    end(processes, code=1)
    assert len(rows(run)) < STEPS
    assert "stopped and saved after step" in said(run)
    end(start(run, after, "--resume"))
    assert_same_run(run, alone)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_within_a_minute(data, tmp_path, killed):
    run = tmp_path / "run"
    processes = start(run, 2, "--data", data, *OPTIONS, "--epochs", "100000")
    wait_for_row(run, processes)
    processes[killed].kill()
    processes[killed].wait()
    began = time.monotonic()
    assert processes[1 - killed].wait(60) != 0
    print(f"ended {time.monotonic() - began:.1f} s after the other")
    text = said(run, 1 - killed)
    assert "another process of the run has ended" in text or "another task died" in text, text


def test_processes_that_are_not_one_run_end_in_one_line(data, tmp_path):
    other, run = shutil.copytree(data, tmp_path / "other"), tmp_path / "run"
    (other / "val/ant/0.png").unlink()
    last = ("--data", other, "--learning-rate", "0.03")
    end(start(run, 2, "--data", data, *OPTIONS, last=last), code=2, seconds=60)
    assert not run.exists()
    for number in (0, 1):
        (error,) = [text for text in said(run, number).splitlines() if "error" in text]
        assert error.startswith("botnet: error: process 1 of the run differs from process 0: ")
        assert "images " in error and "--learning-rate 0.03" in error


def test_a_process_that_takes_its_time_is_waited_for(data, tmp_path):
    run = tmp_path / "run"
    last = {"last": ("--data", "nothing"), "last_command": ("-c", LATE_COMMAND)}
    processes = start(run, 2, "--data", data, *OPTIONS, **last)
    end(processes, code=1, seconds=90)
    assert "process 1 of the run cannot begin; see its own message" in said(run)
    assert "nothing: no such folder" in said(run, 1)
    assert not run.exists()
