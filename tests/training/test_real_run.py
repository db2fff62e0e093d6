"""The loop on a real small BoTNet and a folder of images: resumed bit for bit, results written."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
from bottleneck_transformer_flax.training.config import InputOptions, OptimizerOptions, RunConfig
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import make_plan
from bottleneck_transformer_flax.training.trainer import train
from training.linear_runs import Recorder, untimed
from training.tiny import CLASSES, SIZE, assert_same_bits, entries, write_data

pytestmark = pytest.mark.slow

EPOCHS, STEPS = 4, 8


def config_of(data):
    return RunConfig(
        data=str(data),
        variant="small",
        epochs=EPOCHS,
        batch_size=5,
        optimization=OptimizerOptions(learning_rate=0.05, ema_decay=0.9, label_smoothing=0.1),
        input=InputOptions(image_size=SIZE, eval_crop=0.9, num_workers=0),
    )


def go(path, config, at=None):
    run = RunDirectory(path)
    if not (path / "run.json").exists():
        run.create(config)
    recorder = Recorder(at)
    plan = make_plan(run.read_config())
    return train(plan, run, recorder, recorder.stop), recorder


@pytest.fixture(scope="module")
def data(tmp_path_factory, small_variant):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("runs") / "whole"
    return path, go(path, config_of(data))[0]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, data, whole):
    path = tmp_path_factory.mktemp("runs") / "resumed"
    stopped, _ = go(
        path, config_of(data), lambda event, value: event == "finished" and value["epoch"] == 2
    )
    assert (stopped.finished, stopped.step) == (False, 4)
    assert not (path / "pretrained").exists()
    return path, go(path, config_of(data))[0]


def arrays_of(path):
    """All arrays of the last checkpoint, as orbax wrote them."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        return reader.restore((RunDirectory(path).checkpoints / str(STEPS) / "state").absolute())


def test_stopped_after_two_of_four_epochs_and_resumed_it_ends_with_the_same_bits(whole, resumed):
    ours, theirs = arrays_of(resumed[0]), arrays_of(whole[0])
    assert set(theirs) == {"step", "variables", "average", "optimizer_state"}
    assert int(theirs["step"]) == STEPS
    assert_same_bits(ours, theirs)
    assert_same_bits(load_pretrained(resumed[0]).variables, load_pretrained(whole[0]).variables)
    assert resumed[1].evaluation == whole[1].evaluation
    ours, theirs = (
        [untimed(json.loads(line)) for line in RunDirectory(path).metrics.read_text().splitlines()]
        for path in (resumed[0], whole[0])
    )
    assert ours == theirs
    assert len(theirs) == EPOCHS


def test_everything_is_written(whole, data):
    path, outcome = whole
    assert entries(path) == [
        "best",
        "checkpoints",
        "confusion.png",
        "curves.png",
        "evaluation.json",
        "example.png",
        "metrics.jsonl",
        "pretrained",
        "run.json",
    ]
    assert entries(path / "pretrained") == [
        "README.md",
        "classes.json",
        "config.json",
        "model.safetensors",
        "preprocessing.json",
    ]
    for name in ("confusion.png", "curves.png"):
        with Image.open(path / name) as image:
            assert min(image.size) > 300
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 3
    with Image.open(path / "example.png") as image, Image.open(data / "val/ant/0.png") as first:
        assert image.tobytes() == first.tobytes()
    assert json.loads((path / "evaluation.json").read_text()) == outcome.evaluation
    assert RunConfig.from_json(json.loads((path / "run.json").read_text())) == config_of(data)
    assert outcome.evaluation["count"] == 9
    assert [row["count"] for row in outcome.evaluation["per_class"]] == [3, 3, 3]


def test_the_pretrained_directory_gives_the_recorded_figures_again(whole, data):
    path, outcome = whole
    model, variables, preprocessing, classes = load_pretrained(path)
    assert classes == CLASSES
    assert (preprocessing.size, preprocessing.crop) == (SIZE, 0.9)
    assert model.config.num_classes == 3
    evaluator = Evaluator(model, preprocessing, batch_size=20)
    predictions = evaluator(variables, load_splits(str(data)).validation)
    assert predictions.to_json(classes) == outcome.evaluation
    assert_same_bits(variables, jax.tree.map(np.asarray, arrays_of(path)["average"]))


def test_the_card_tells_the_measured_accuracy(whole):
    path, outcome = whole
    card = (path / "pretrained" / "README.md").read_text()
    assert f"| top-1 | {outcome.evaluation['top1']:.4f} |" in card
    assert "| test images | 9 |" in card
    record = json.loads(re.search(r"```json\n(.*)\n```", card, re.DOTALL).group(1))
    run = json.loads((path / "run.json").read_text())
    assert record.pop("data") == Path(run.pop("data")).name
    assert record == run


def test_the_card_does_not_tell_where_folders_are(whole, data):
    card = (whole[0] / "pretrained" / "README.md").read_text()
    assert str(data.parent) not in card
    assert f"| data | {data.name}, 12 training and 9 test images |" in card


def test_a_batch_larger_than_the_training_set_is_reduced(data):
    plan = make_plan(config_of(data).replace(batch_size=256))
    assert (plan.batch_size, plan.steps_per_epoch, plan.total_steps) == (12, 1, EPOCHS)
    plan = make_plan(config_of(data))
    assert (plan.batch_size, plan.steps_per_epoch, plan.total_steps) == (5, 2, STEPS)


def test_a_checkpoint_of_another_model_is_not_resumed(resumed, data):
    run = RunDirectory(resumed[0])
    plan = make_plan(config_of(data).replace(optimization=OptimizerOptions()))
    with pytest.raises(CheckpointError) as caught:
        train(plan, run, Recorder())
    assert str(run.checkpoints / str(STEPS)) in str(caught.value)
