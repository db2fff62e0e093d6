"""A tiny folder of images, a run trained on it by the command, and a way to call commands."""

import contextlib
import json
from typing import NamedTuple

import pytest

from bottleneck_transformer_flax.cli import main
from bottleneck_transformer_flax.models.variants import VARIANTS
from bottleneck_transformer_flax.training.estimate import Estimate
from reference.finished_runs import copy_work, finished_once, finished_run
from reference.hub import hub
from training.tiny import SMALL_VARIANT, small_variant, write_data

__all__ = ["finished_once", "finished_run", "hub", "small_variant"]

# Options under which a folder of 16 × 16 images trains in a second, once compiled. Muon, the
# recipe's optimizer, would compile for long.
QUICK = ("--variant", "small", "--image-size", "16", "16", "--num-workers", "0")
QUICK += ("--batch-size", "6", "--epochs", "2", "--warmup-epochs", "1", "--optimizer", "sgd")


ESTIMATE = Estimate(
    steps=4,
    images=24,
    evaluations=2,
    devices=2,
    state_bytes=3_000_000,
    temporaries_bytes=7_000_000,
    compile_seconds=30.0,
    step_seconds=0.5,
    input_seconds=0.1,
    evaluation_seconds=10.0,
    test_seconds=8.0,
)


class Called(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    def json(self):
        return json.loads(self.out)


@pytest.fixture
def call(capfd, monkeypatch, as_users_have_it):
    """Call the command line in this process, as from a terminal of a fixed width."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return Called(code, captured.out, captured.err)

    return run


@pytest.fixture
def fails(call):
    """Call, expect the exit code, and give the one line that says why."""

    def run(code, *arguments):
        called = call(*arguments)
        assert called.code == code, called
        lines = called.err.strip().splitlines()
        assert len(lines) == 1, called.err
        assert lines[0].startswith("botnet: error: ")
        return lines[0]

    return run


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder with ``data/`` and one finished run below ``runs/``; read only."""
    folder = tmp_path_factory.mktemp("work")
    write_data(folder / "data")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "small", SMALL_VARIANT)
        assert main(["train", "--data", "data", *QUICK]) == 0
    return folder


@pytest.fixture
def trained(work, tmp_path, monkeypatch):
    """A fresh copy of ``work``, and in it."""
    monkeypatch.chdir(copy_work(work, tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture
def run(trained):
    """The one run in ``trained``."""
    (found,) = (trained / "runs").iterdir()
    return found.relative_to(trained)
