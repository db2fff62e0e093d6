"""``botnet train`` from folders to artifacts; refusals leave nothing half made."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from rich.console import Console

from bottleneck_transformer_flax.cli import result_text, train
from bottleneck_transformer_flax.cli.setup_text import TRAINED_WEIGHTS
from bottleneck_transformer_flax.cli.train_options import parse
from bottleneck_transformer_flax.conversion.public_weights import PUBLIC_WEIGHTS
from bottleneck_transformer_flax.data import datasets
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.distributed import StopRequest
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.training.defaults import Choice
from bottleneck_transformer_flax.training.tensorboard import TensorBoard
from bottleneck_transformer_flax.training.trainer import Outcome
from cli.conftest import ESTIMATE, QUICK
from training.linear_runs import setup_of
from training.tiny import array_splits

TRAIN = ("train", "--data", "data", *QUICK)
TRAINING = "bottleneck_transformer_flax.training"
parts = datasets.load_parts


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_says_where_everything_is_and_what_to_type_next(call, run, trained):
    record = json.loads((trained / run / "run.json").read_text())
    assert (record["data"], record["batch_size"], record["epochs"]) == ("data", 6, 2)
    # Chosen for small images.
    assert record["augmentation"]["crop"] == "shift"
    assert (record["input"]["image_size"], record["input"]["eval_crop"]) == ([16, 16], 1.0)
    # A name that a shell would take apart, and that stands for a time in some file systems.
    (trained / run).rename(trained / "runs/:a b:")
    called = call("train", "--resume")
    assert called.code == 0, called
    for name in ("pretrained", "checkpoints", "curves.png", "confusion.png"):
        assert f"runs/:a b:/{name}" in called.out
    assert "12 training (train/) and 9 validation (val/) images, 3 classes" in called.out
    assert "validation (val/) accuracy" in called.out
    assert "not calibrated: 9 validation images are too few to fit a temperature on" in called.out
    assert called.out.splitlines()[-1] == "next: botnet predict 'runs/:a b:/example.png'"


@pytest.mark.parametrize(
    ("validation", "evaluation", "told"),
    [
        (None, {}, "there are no validation images"),
        (49, {}, "49 validation images are too few"),
        (50, {}, "no temperature from 0.01 to 100 fits"),
        (50, {"temperature": 1.5, "uncalibrated_ece": 0.1, "ece": 0.02}, "10.00 % before, 2.00 %"),
    ],
)
def test_a_run_says_how_it_is_calibrated_or_why_not(validation, evaluation, told):
    setup = SimpleNamespace(splits=array_splits(validation=validation))
    assert told in result_text._calibration_line(setup, evaluation)


def test_a_finished_run_resumed_with_its_images_elsewhere_prints_one_json_line(
    call, run, trained, tmp_path, monkeypatch
):
    (trained / "data").rename(trained / "moved")
    called = call("train", "--resume", "--data", "moved", "--num-workers", "0", "--json")
    assert called.code == 0, called
    assert called.out.count("\n") == 1
    result = called.json()
    assert {"top1", "top5", "loss", "count", "split"} <= result.keys()
    assert result.pop("run") == str(run)
    assert result == json.loads((trained / run / "evaluation.json").read_text())
    assert json.loads((trained / run / "run.json").read_text())["data"] == "moved"

    # Run and images together, from another folder.
    new = trained.rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    setup = train._resumed_setup(parse(["--resume", "--run-directory", str(new / run)]))
    assert setup.config.data == f"{new}/moved"
    assert setup.splits.description == (
        f"12 training (train/) and 9 validation (val/) images, 3 classes ({new}/moved)"
    )


def test_a_resumed_run_whose_images_are_not_found_says_what_to_do(fails, run, trained):
    (trained / "data/val/ant/0.png").unlink()
    before = tree(trained / run)
    told = fails(1, "train", "--resume")
    assert "data holds other images: 12 training (train/) and 8 validation (val/) images" in told
    assert told.endswith(
        f"restore them, name their folder with --data, or begin a new run with --like {run}"
    )
    (trained / "data").rename(trained / "moved")
    assert "data does not exist; restore them" in fails(1, "train", "--resume")
    assert tree(trained / run) == before


def test_bad_images_that_were_left_out_are_listed(call, trained, monkeypatch):
    bad_images = BadImages(skip=True)
    bad_images.reasons["data/train/bee/x.jpg"] = "data/train/bee/x.jpg: is damaged"
    outcome = Outcome(step=4, finished=True, evaluation=None, bad_images=bad_images)
    monkeypatch.setattr(f"{TRAINING}.trainer.train", lambda *_: outcome)
    called = call(*TRAIN)
    assert called.code == 0
    assert "1 image could not be read" in called.err
    assert "x.jpg: is damaged" in called.err
    assert "none left to score" in called.out


def test_an_early_end_is_told_with_where_the_models_are(call, trained, monkeypatch):
    outcome = Outcome(step=2, finished=True, evaluation=None, bad_images=BadImages(skip=False))
    monkeypatch.setattr(f"{TRAINING}.trainer.train", lambda *_: outcome)
    assert (
        "ended early, after epoch 1 of 2: 3 validations in a row made no better model; "
        "early/pretrained is the last model, early/best the best"
    ) in call(*TRAIN, "--patience", "3", "--run-directory", "early").out


def test_what_does_not_fit_is_refused_and_changes_no_file(fails, trained):
    before = tree(trained)
    # A folder in use is refused before the images are listed, which may take a while.
    in_use = ("--data", "nowhere", "--run-directory", "runs")
    assert "runs is not empty; name another" in fails(1, *TRAIN, *in_use)
    assert "2 × 2" in fails(2, *TRAIN, "--image-size", "2", "2")
    assert tree(trained) == before


def test_a_resumed_run_needs_the_model_and_the_images_that_it_began_with(fails, run, trained):
    shutil.copytree(trained / "data", trained / "fewer")
    for part in ("train", "val"):
        shutil.rmtree(trained / "fewer" / part / "ant")
    before = tree(trained / run)
    # Fewer classes are another model, too; but the images are the cause.
    told = fails(1, "train", "--resume", "--data", "fewer")
    assert "not those that the run began with" in told
    assert tree(trained / run) == before
    record = json.loads((trained / run / "run.json").read_text())
    record |= {"variant": None, "pretrained": "start"}
    (trained / run / "run.json").write_text(json.dumps(record))
    assert "began from start: restore it, or say with --pretrained" in fails(1, "train", "--resume")


def test_a_recipe_that_was_chosen_is_explained_and_few_photographs_get_a_better_start():
    parsed = parse(["--data", "a b"])
    choice = Choice("image-folder", parsed.config, "720 images: few", needs_pretrained=True)
    setup = dataclasses.replace(setup_of(), config=parsed.config)
    recipe, because, note = train._origin(parsed, setup, choice)
    assert (recipe, because) == ("recipe  image-folder", "because 720 images: few")
    assert note.endswith("botnet train --data 'a b' --pretrained timm/botnet26t_256.c1_in1k")
    assert TRAINED_WEIGHTS in [weights.name for weights in PUBLIC_WEIGHTS]
    assert len(list(train._origin(parsed, setup, choice._replace(needs_pretrained=False)))) == 2


def test_a_dry_run_names_the_recipe_tells_an_estimate_and_writes_nothing(
    call, trained, monkeypatch
):
    monkeypatch.setattr(f"{TRAINING}.estimate.estimate", lambda setup, **_: ESTIMATE)
    before, listed = tree(trained), []
    monkeypatch.setattr(datasets, "load_parts", lambda data: listed.append(data) or parts(data))
    dry = (*TRAIN, "--dry-run")
    lines = dict(line.split(None, 1) for line in call(*dry).out.splitlines())
    assert listed == ["data"]
    assert lines["recipe"].startswith("small-images, but ")
    assert lines["update"].startswith("sgd ")
    assert lines["because"] == "12 training images in 3 classes, 16 × 16 pixels: small images"
    assert lines["steps"] == "4, 24 images"
    assert lines["data"].startswith("12 training")
    called = call(*dry, "--json")
    assert called.out.count("\n") == 1
    assert called.json() == dataclasses.asdict(ESTIMATE) | {"seconds": 60.0}
    assert call(*dry, "--recipe", "paper-longer").out.startswith("recipe  paper-longer, but ")
    assert tree(trained) == before


def test_a_run_of_a_given_time_is_one_of_the_steps_that_fit(call, fails, trained, monkeypatch):
    """An epoch takes 11 s by this estimate, and everything else 43 s."""
    monkeypatch.setattr(f"{TRAINING}.estimate.estimate", lambda setup, **_: ESTIMATE)
    timed = [word for word in TRAIN if word not in ("--epochs", "2")]
    lines = dict(
        line.split(None, 1) for line in call(*timed, "--time", "2m", "--dry-run").out.splitlines()
    )
    assert lines["time"].startswith("1.0 minutes")
    assert "but --epochs 6, " in lines["recipe"]
    assert "--max-steps 12" in lines["recipe"]
    message = fails(2, *timed, "--time", "40s")
    assert "no epoch fits into the time: one takes 11 s here, and everything else 43 s" in message


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_too_little_memory_is_one_line_with_what_helps(fails, trained, monkeypatch, options):
    def exhausted(*_):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nMore.")

    for name in ("estimate.estimate", "trainer.train"):
        monkeypatch.setattr(f"{TRAINING}.{name}", exhausted)
    message = fails(1, *TRAIN, *options)
    assert "Out of memory allocating 5 bytes" in message
    assert message.endswith(
        "; try a smaller --batch-size or --image-size, more --accumulation-steps, --remat, or "
        "--dtype bfloat16"
    )
    # What is on already is not advised.
    message = fails(1, *TRAIN, *options, "--remat", "--dtype", "bfloat16")
    assert message.endswith("-size or --image-size, or more --accumulation-steps")
    # A run that has begun cannot change any of it.
    (run,) = (path for path in Path("runs").iterdir() if (path / "pretrained").exists())
    message = fails(1, "train", "--resume", "--run-directory", run)
    assert f"; begin a new run with --like {run} and a smaller --batch-size" in message


def test_events_for_tensorboard_are_written_on_demand_by_the_primary_process():
    for arguments, quiet, written in (
        ([], False, False),
        (["--tensorboard"], False, True),
        (["--tensorboard"], True, False),
    ):
        callbacks = train._callbacks(parse(arguments), Console(quiet=quiet))
        assert any(isinstance(callback, TensorBoard) for callback in callbacks) == written


def test_the_first_signal_requests_a_stop_and_the_second_ends_at_once(monkeypatch, capfd):
    ended, before = [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(train, "end_at_once", lambda: ended.append(True))
    with train._stop_on_signals(StopRequest(), "botnet train --resume") as stop:
        signal.raise_signal(signal.SIGTERM)
        assert (stop.requested, ended) == (True, [])
        signal.raise_signal(signal.SIGINT)
        assert ended == [True]
    assert "resume from the last checkpoint with: botnet train --resume" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) == before


def test_an_image_has_the_probabilities_of_the_run_s_own_evaluation(call, run):
    lines = [json.loads(line) for line in call("predict", "data/val", "--json").out.splitlines()]
    names = [line["image"].removeprefix("data/val/") for line in lines]
    predictions = Predictions.load(Path(run, "predictions.npz"))
    source = load_splits("data").validation
    for row, position in enumerate(predictions.positions):
        line = lines[names.index(source.names[position])]
        probabilities = [one["probability"] for one in line["predictions"]]
        np.testing.assert_allclose(probabilities, predictions.top_probabilities[row], rtol=1e-5)
