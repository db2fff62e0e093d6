"""What a finished run leaves, from predictions that were made up."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.training.artifacts import save_best, write_artifacts
from bottleneck_transformer_flax.training.config import InputOptions, RunConfig
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import make_setup
from reference.finished_runs import random_predictions
from training.tiny import (
    CLASSES,
    SIZE,
    assert_same_bits,
    entries,
    truncated_jpeg,
    write_classes,
    write_data,
)

ROW = {"epoch": 1, "step": 2, "train_loss": 1.0, "train_accuracy": 0.5, "learning_rate": 0.1}
ROW |= {"validation_loss": 0.75, "validation_accuracy": 0.625, "validation_top5": 1.0}
ROW |= {"validation_count": 8, "temperature": 0.75}
SCORED = ["confusion.png", "evaluation.json", "predictions.npz", "reliability.png"]


@pytest.fixture(scope="module")
def data(tmp_path_factory, small_variant):
    data = write_data(tmp_path_factory.mktemp("parts") / "photos")
    write_classes(data / "test", dict.fromkeys(CLASSES, 2), seed=21)
    return data


@pytest.fixture(scope="module")
def setup(data):
    options = InputOptions(image_size=SIZE, eval_crop=0.9, num_workers=0)
    return make_setup(RunConfig(data=str(data), variant="small", batch_size=5, input=options))


@pytest.fixture(scope="module")
def variables(setup):
    return setup.initial_state().inference_variables


@pytest.fixture(scope="module")
def predictions(setup):
    return random_predictions(setup.splits.test)


@pytest.fixture(scope="module")
def written(setup, variables, predictions, tmp_path_factory):
    """The folder of a run that was scored on its test split, and the evaluation."""
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    scored = {"split": "test", "origin": "test/", "temperature": 1.5}
    evaluation = scored | predictions.to_json(CLASSES)
    write_artifacts(run, setup, variables, [ROW], predictions, evaluation)
    return run, evaluation


def test_models_scores_and_pictures_are_written(written, setup, predictions, variables, data):
    run, evaluation = written
    assert entries(run.path) == sorted(["curves.png", "example.png", "pretrained", *SCORED])
    for picture in (run.confusion, run.curves, run.reliability):
        with Image.open(picture) as image:
            assert min(image.size) > 300
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 3
    with Image.open(run.example) as image, Image.open(data / "test/ant/0.png") as first:
        assert image.tobytes() == first.tobytes()
    assert json.loads(run.evaluation.read_text()) == evaluation
    saved = Predictions.load(run.predictions)
    np.testing.assert_array_equal(saved.losses, predictions.losses)
    model, loaded, preprocessing, classes = load_pretrained(run.path)
    assert (classes, model.config.num_classes) == (CLASSES, 3)
    assert preprocessing == setup.preprocessing.replace(temperature=1.5)
    assert (preprocessing.size, preprocessing.crop) == (SIZE, 0.9)
    assert_same_bits(loaded, jax.tree.map(np.asarray, variables))


def test_the_cards_tell_scores_and_options_but_not_where_folders_are(
    written, setup, variables, data, tmp_path
):
    run, evaluation = written
    card = (run.pretrained / "README.md").read_text()
    assert f"| top-1 | {evaluation['top1']:.4f} |" in card
    assert "| test (test/) images | 6 |" in card
    counts = "12 training (train/), 9 validation (val/), 6 test (test/) images"
    assert f"| data | photos: {counts} |" in card
    record = json.loads(re.search(r"```json\n(.*)\n```", card, re.DOTALL).group(1))
    options = json.loads(json.dumps(setup.config.to_json()))
    assert record == options | {"data": "photos"}
    assert str(data.parent) not in card
    assert "after the last step, with epoch 1, where the run ended early |" in card
    save_best(RunDirectory(tmp_path), setup, variables, ROW)
    best = (tmp_path / "best" / "README.md").read_text()
    assert "after epoch 1, the best on the validation images" in best
    assert "| validation (val/) images | 8 |" in best
    assert "| top-1 | 0.6250 |" in best
    assert ("| temperature | 1.5000 |" in card, "| temperature | 0.7500 |" in best) == (True, True)
    assert load_pretrained(tmp_path / "best").preprocessing.temperature == 0.75


def test_a_model_that_nothing_scored_has_no_scores(setup, variables, tmp_path):
    row = {name: value for name, value in ROW.items() if "validation" not in name}
    row["epoch"] = setup.config.epochs
    write_artifacts(RunDirectory(tmp_path), setup, variables, [row], None, None)
    assert entries(tmp_path) == ["curves.png", "example.png", "pretrained"]
    card = (tmp_path / "pretrained" / "README.md").read_text()
    assert "top-1" not in card and "temperature" not in card
    assert load_pretrained(tmp_path).preprocessing == setup.preprocessing
    assert "after the last step |" in card


def test_a_bad_image_is_found_before_anything_is_built(setup, tmp_path, monkeypatch):
    data = write_data(tmp_path / "data", train=2, test=1)
    bad = truncated_jpeg(data / "val/bee/x.jpg")
    config = setup.config.replace(data=str(data))
    with monkeypatch.context() as patch, pytest.raises(DataError, match=rf"^{bad}: .*--skip-bad"):
        patch.setattr("bottleneck_transformer_flax.training.setup.starting_point", None)
        make_setup(config)
    skipping = dataclasses.replace(config.input, skip_bad_images=True)
    assert len(make_setup(config.replace(input=skipping)).splits.validation) == 4


def test_a_batch_larger_than_the_training_set_is_reduced_to_it(setup):
    assert (setup.batch_size, setup.steps_per_epoch) == (5, 2)
    setup = make_setup(setup.config.replace(batch_size=256, epochs=3))
    assert (setup.batch_size, setup.steps_per_epoch, setup.total_steps) == (12, 1, 3)


def test_more_steps_than_memory_can_plan_for_are_refused(setup):
    with pytest.raises(ConfigError, match="1000000000 epochs are 2000000000 steps; expected up to"):
        make_setup(setup.config.replace(epochs=10**9))
