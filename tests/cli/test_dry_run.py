"""``botnet train --dry-run``, and what recipes make of the same folder."""

import json

import pytest
from jax.errors import JaxRuntimeError

from bottleneck_transformer_flax import BoTNet, get_config
from bottleneck_transformer_flax.cli.train_options import parse
from bottleneck_transformer_flax.models.flops import abstract_variables, count_parameters
from bottleneck_transformer_flax.training.recipes import default_config
from cli.conftest import QUICK
from training.tiny import entries, truncated_jpeg

TINY = BoTNet(config=get_config("botnet_tiny", num_classes=3))
SMALL = ("--variant", "small", *QUICK[2:])


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(call, trained):
    before = entries(trained), entries(trained / "runs")
    called = call("train", "--data", "data", *QUICK, "--dry-run")
    assert called.code == 0, called
    lines = dict(line.split(None, 1) for line in called.out.splitlines())
    # 12 images in batches of 6, twice.
    assert lines["steps"] == "4, 24 images"
    assert "MB for the state and" in lines["memory"]
    assert "2 evaluations of" in lines["time"]
    assert "ms a step" in lines["time"]
    assert lines["time"].endswith(" s to compile")
    assert (entries(trained), entries(trained / "runs")) == before


def test_a_dry_run_stops_at_a_bad_image_as_a_run_would(call, fails, trained):
    bad = truncated_jpeg(trained / "data/val/ant/0.jpg")
    message = fails(1, "train", "--data", "data", *QUICK, "--dry-run")
    assert "data/val/ant/0.jpg" in message
    assert "--skip-bad-images" in message
    called = call("train", "--data", "data", *QUICK, "--dry-run", "--skip-bad-images")
    assert called.code == 0, called
    bad.unlink()


@pytest.mark.parametrize("dry", [True, False])
def test_too_little_memory_is_one_line_with_what_helps(fails, trained, monkeypatch, dry):
    def exhausted(*_):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nMore.")

    if dry:
        monkeypatch.setattr("bottleneck_transformer_flax.cli.dry_run.estimate", exhausted)
    else:
        monkeypatch.setattr("bottleneck_transformer_flax.training.trainer.train", exhausted)
    message = fails(1, "train", "--data", "data", *QUICK, *(["--dry-run"] if dry else []))
    assert "Out of memory allocating 5 bytes" in message
    for option in ("--batch-size", "--accumulation-steps", "--remat"):
        assert option in message


def test_a_dry_run_as_json(call, trained):
    options = ("--evaluate-every-epochs", "2", "--dry-run", "--json")
    called = call("train", "--data", "data", *QUICK, *options)
    assert called.code == 0, called
    assert called.out.count("\n") == 1
    found = called.json()
    assert (found["steps"], found["images"], found["evaluations"]) == (4, 24, 1)
    assert found["step_seconds"] > found["input_seconds"] >= 0
    assert found["seconds"] == pytest.approx(
        found["compile_seconds"] + 4 * found["step_seconds"] + found["evaluation_seconds"]
    )
    # Parameters, adamw's two moments of each, and their average, all float32.
    parameters = count_parameters(abstract_variables(TINY, (16, 16)))
    assert 4 * 4 * parameters < found["state_bytes"] < 4.1 * 4 * parameters


@pytest.mark.slow
def test_a_recipe_is_named_and_said_and_recorded(call, trained):
    options = ("--recipe", "paper-longer", "--data", "data", *SMALL, "--policy-magnitude", "3")
    called = call("train", *options, "--run-directory", "longer")
    assert called.code == 0, called
    lines = called.out.splitlines()
    assert lines[0].startswith("recipe  paper-longer, but ")
    assert "augmentation.policy_magnitude 3" in lines[0]
    assert "RandAugment" in called.out
    record = json.loads((trained / "longer" / "run.json").read_text())
    assert record["augmentation"]["policy"] == "rand"
    assert record["augmentation"]["policy_magnitude"] == 3
    assert record["optimization"]["weight_decay"] == 8e-5
    assert (record["epochs"], record["batch_size"]) == (2, 6)


def test_a_recipe_and_another_run_s_options_are_not_mixed(fails, run):
    assert "leave out --recipe" in fails(2, "train", "--like", run, "--recipe", "paper-longer")


def test_of_an_option_given_twice_the_last_counts_for_the_defaults_too():
    assert parse(["--data", "photos", "--data=embedded"]).config == default_config("embedded")
    assert parse([]).config == default_config("embedded")


def test_an_unknown_recipe_is_told_with_all_there_are(fails, trained):
    assert "paper-standard" in fails(2, "train", "--data", "data", "--recipe", "paper-standart")
