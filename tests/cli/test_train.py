"""``botnet train`` from folders to artifacts; refusals leave nothing half made."""

import dataclasses
import json
import shutil
import signal

import pytest
from jax.errors import JaxRuntimeError
from rich.console import Console

from bottleneck_transformer_flax.cli import train
from bottleneck_transformer_flax.cli.train_options import parse
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.distributed import StopRequest
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.training.estimate import Estimate
from bottleneck_transformer_flax.training.tensorboard import TensorBoard
from bottleneck_transformer_flax.training.trainer import Outcome
from cli.conftest import QUICK
from training.tiny import CLASSES, entries, write_classes

TRAIN = ("train", "--data", "data", *QUICK)


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_says_where_everything_is_and_what_to_type_next(call, run, trained):
    record = json.loads((trained / run / "run.json").read_text())
    assert (record["data"], record["batch_size"], record["epochs"]) == ("data", 6, 2)
    assert record["input"]["image_size"] == [16, 16]
    # A name that a shell would take apart, and that stands for a time in some file systems.
    (trained / run).rename(trained / "runs/:a b:")
    called = call("train", "--resume")
    assert called.code == 0, called
    for name in ("pretrained", "checkpoints", "curves.png", "confusion.png"):
        assert f"runs/:a b:/{name}" in called.out
    assert "12 training and 9 validation images, 3 classes" in called.out
    assert "validation accuracy" in called.out
    assert called.out.splitlines()[-1] == "next: botnet predict 'runs/:a b:/example.png'"


def test_the_runs_model_gives_its_recorded_figures_again(call, run, trained):
    recorded = json.loads((trained / run / "evaluation.json").read_text())
    assert recorded.pop("split") == "validation"
    scored = call("evaluate", "--checkpoint", run, "--json", "--batch-size", "4").json()
    assert {name: scored[name] for name in recorded} == recorded
    saved = Predictions.load(trained / run / "predictions.npz")
    assert saved.to_json(CLASSES) == recorded


def test_a_finished_run_resumed_with_its_images_elsewhere_prints_one_json_line(call, run, trained):
    (trained / "data").rename(trained / "moved")
    called = call("train", "--resume", "--data", "moved", "--num-workers", "0", "--json")
    assert called.code == 0, called
    assert called.out.count("\n") == 1
    result = called.json()
    assert {"top1", "top5", "loss", "count", "split"} <= result.keys()
    assert result.pop("run") == str(run)
    assert result == json.loads((trained / run / "evaluation.json").read_text())
    assert json.loads((trained / run / "run.json").read_text())["data"] == "moved"


def test_a_folder_that_holds_something_is_refused_before_the_images_are_listed(fails, run, trained):
    before = tree(trained / run)
    message = fails(1, "train", "--data", "nowhere", "--run-directory", run)
    assert f"{run} is not empty; name another --run-directory" in message
    assert "--resume" in message
    assert tree(trained / run) == before


def test_bad_images_that_were_left_out_are_listed(call, trained, monkeypatch):
    bad_images = BadImages(skip=True)
    bad_images.reasons["data/train/bee/x.jpg"] = "data/train/bee/x.jpg: is damaged"
    outcome = Outcome(step=4, finished=True, evaluation=None, bad_images=bad_images)
    monkeypatch.setattr("bottleneck_transformer_flax.training.trainer.train", lambda *_: outcome)
    called = call(*TRAIN)
    assert called.code == 0
    assert "1 image could not be read" in called.err
    assert "x.jpg: is damaged" in called.err
    assert "none left to score" in called.out


DATA_ERRORS = {
    "no such folder": lambda root: None,
    "only one class": lambda root: write_classes(root, {"ant": 3}),
}


@pytest.mark.parametrize("said", DATA_ERRORS)
def test_data_that_cannot_be_used_is_one_line_and_leaves_no_run(fails, tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    DATA_ERRORS[said](tmp_path / "images")
    message = fails(1, "train", "--data", "images")
    assert "images" in message
    assert said in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--image-size", "2", "2"), "2"),
        (("--crop", "shift", "--shift-pixels", "16"), "shift_pixels"),
        (("--batch-size", "24", "--accumulation-steps", "8"), "batch_size"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused_before_a_run_is_made(
    fails, trained, options, named
):
    before = entries(trained / "runs")
    assert named in fails(2, *TRAIN, *options)
    assert entries(trained / "runs") == before


def test_a_resumed_run_needs_the_model_that_it_began_with(fails, run, trained):
    record = json.loads((trained / run / "run.json").read_text())
    record |= {"variant": None, "pretrained": "start"}
    (trained / run / "run.json").write_text(json.dumps(record))
    assert "began from start: restore it, or say with --pretrained" in fails(1, "train", "--resume")


def test_images_of_fewer_classes_are_told_as_that_and_the_run_stays_as_it_was(fails, run, trained):
    shutil.copytree(trained / "data", trained / "fewer")
    for part in ("train", "val"):
        shutil.rmtree(trained / "fewer" / part / "ant")
    before = tree(trained / run)
    message = fails(1, "train", "--resume", "--data", "fewer")
    assert "not those that the run began with" in message
    assert tree(trained / run) == before


FOUND = Estimate(
    steps=4,
    images=24,
    evaluations=1,
    devices=2,
    state_bytes=3_000_000,
    temporaries_bytes=None,
    compile_seconds=30.0,
    step_seconds=0.5,
    input_seconds=0.1,
    evaluation_seconds=10.0,
    test_seconds=0.0,
)


def test_a_dry_run_tells_an_estimate_and_writes_nothing(call, trained, monkeypatch):
    monkeypatch.setattr(
        "bottleneck_transformer_flax.training.estimate.estimate", lambda setup: FOUND
    )
    before = entries(trained), entries(trained / "runs")
    called = call(*TRAIN, "--dry-run")
    assert called.code == 0, called
    lines = dict(line.split(None, 1) for line in called.out.splitlines())
    assert lines["steps"] == "4, 24 images"
    assert lines["data"].startswith("12 training")
    called = call(*TRAIN, "--dry-run", "--json")
    assert called.out.count("\n") == 1
    assert called.json() == dataclasses.asdict(FOUND) | {"seconds": 42.0}
    assert (entries(trained), entries(trained / "runs")) == before


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_too_little_memory_is_one_line_with_what_helps(fails, trained, monkeypatch, options):
    def exhausted(*_):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nMore.")

    for name in ("estimate.estimate", "trainer.train"):
        monkeypatch.setattr(f"bottleneck_transformer_flax.training.{name}", exhausted)
    message = fails(1, *TRAIN, *options)
    assert "Out of memory allocating 5 bytes" in message
    for option in ("--batch-size", "--accumulation-steps", "--remat"):
        assert option in message


def test_events_for_tensorboard_are_written_on_demand_by_the_primary_process():
    for arguments, quiet, written in (
        ([], False, False),
        (["--tensorboard"], False, True),
        (["--tensorboard"], True, False),
    ):
        callbacks = train._callbacks(parse(arguments), Console(quiet=quiet))
        assert any(isinstance(callback, TensorBoard) for callback in callbacks) == written


def test_the_first_signal_requests_a_stop_and_the_second_ends_at_once(monkeypatch):
    ended, before = [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(train, "end_at_once", lambda: ended.append(True))
    with train._stop_on_signals(StopRequest()) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert (stop.requested, ended) == (True, [])
        signal.raise_signal(signal.SIGINT)
        assert ended == [True]
    assert signal.getsignal(signal.SIGINT) == before


def test_a_recipe_is_named_with_what_the_run_changes(call, trained, monkeypatch):
    monkeypatch.setattr(
        "bottleneck_transformer_flax.training.estimate.estimate", lambda setup: FOUND
    )
    options = ("--recipe", "paper-longer", "--policy-magnitude", "3", "--dry-run")
    lines = call(*TRAIN, *options).out.splitlines()
    assert lines[0].startswith("recipe  paper-longer, but ")
    assert "augmentation.policy_magnitude 3" in lines[0]
    assert call(*TRAIN, "--dry-run").out.startswith("recipe  image-folder, but ")
