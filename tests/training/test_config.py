"""The record of a run: its JSON, the values it refuses, recipes, and the run's folder."""

import dataclasses
import json
import os
from typing import get_args

import pytest

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.cli.train_options import Recipe
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.training.config import (
    FineTuningOptions,
    InputOptions,
    ModelOptions,
    OptimizerOptions,
    RunConfig,
)
from bottleneck_transformer_flax.training.recipes import RECIPES, default_config
from bottleneck_transformer_flax.training.run_directory import RunDirectory, newest_run
from training.tiny import entries

EVERYTHING = RunConfig(
    data="images/蜂",
    epochs=3,
    patience=2,
    batch_size=6,
    class_balance="sampling",
    seed=2**32 - 1,
    evaluate_every_epochs=2,
    save_every_epochs=3,
    model=ModelOptions(dropout_rate=0.25, stochastic_depth_rate=0.1, dtype="bfloat16"),
    optimization=OptimizerOptions(
        optimizer="adamw", clip_norm=0.5, accumulation_steps=3, ema_decay=0.99, remat=True
    ),
    input=InputOptions(image_size=(32, 24), num_workers=2, validation_fraction=0.0),
    augmentation=Augmentation(crop="shift", shift_pixels=3),
)


@pytest.mark.parametrize("config", [RunConfig(), EVERYTHING, *RECIPES.values()])
def test_json_and_back_is_the_same_run(config):
    text = json.dumps(config.to_json())
    assert RunConfig.from_json(json.loads(text)) == config
    assert json.dumps(RunConfig.from_json(json.loads(text)).to_json()) == text
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3


NAN, INFINITY = float("nan"), float("inf")
# Each bound of each range, and a value of another kind; NaN is on neither side of a bound.
WRONG = {
    "epochs": (0, 2.5, "3"),
    "patience": (0,),
    "batch_size": (0,),
    "class_balance": ("weight",),
    "evaluate_every_epochs": (0,),
    "save_every_epochs": (0,),
    "seed": (-1, 2**32),
    "data": (3,),
    "pretrained": (5,),
    "variant": ("botnet_tini",),
    "model.dropout_rate": (-0.1, 1.0, NAN, "much"),
    "model.stochastic_depth_rate": (-0.1, 1.0),
    "model.dtype": ("float16",),
    "optimization.optimizer": ("adam",),
    "optimization.learning_rate": (0.0, INFINITY, NAN),
    "optimization.warmup_epochs": (-1.0, INFINITY),
    "optimization.momentum": (-0.1, 1.0),
    "optimization.weight_decay": (-1.0, INFINITY),
    "optimization.label_smoothing": (-0.1, 1.0),
    "optimization.clip_norm": (0.0, NAN),
    "optimization.accumulation_steps": (0, 7),
    "optimization.batch_norm_groups": (0, 7),
    "optimization.ema_decay": (0.0, 1.0, NAN),
    "fine_tuning.frozen_through": ("head",),
    "fine_tuning.backbone_rate": (-0.1, 1.5),
    "input.num_workers": (-1, 0.5),
    # With more phases than epochs, the last epoch would not have the full size.
    "input.progressive_phases": (0, 91),
    "input.progressive_start": (0.0, 1.5),
    "input.eval_crop": (0.0, 1.5, NAN),
    "input.validation_fraction": (-0.1, 1.0),
    "input.split_seed": (0.5,),
}


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(("path", "value"), [(path, v) for path in WRONG for v in WRONG[path]])
def test_a_wrong_value_is_named_in_one_line(path, value):
    values = RunConfig().to_json()
    part, _, name = path.rpartition(".")
    (values[part] if part else values)[name] = value
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_json(values)
    message = str(caught.value)
    assert name in message
    assert str(value) in message
    assert "\n" not in message


def test_a_record_from_before_there_was_fine_tuning_is_read():
    values = RunConfig().to_json()
    del values["fine_tuning"], values["pretrained"]
    # It always held these, and for data in memory they meant nothing.
    values["input"] |= {"eval_crop": 0.875, "interpolation": "bicubic"}
    assert RunConfig.from_json(values) == RunConfig()
    values["input"]["eval_crop"] = 0.9
    assert RunConfig.from_json(values).input.eval_crop == 0.9


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 0, "seed": -1}, "epochs is 0; .*; seed is -1; "),
        ({"variant": None}, "variant is None and pretrained is None; expected one of them"),
        ({"pretrained": "a"}, "variant is botnet_tiny and pretrained is a; expected one of them"),
        (
            {"fine_tuning": FineTuningOptions(frozen_through="c3", backbone_rate=0.1)},
            "frozen_through is 'c3', backbone_rate is 0.1 without a pretrained model",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(changes, told):
    with pytest.raises(ConfigError, match=told):
        RunConfig(**changes)


def test_differences_are_paths_with_the_other_runs_values():
    other = EVERYTHING.replace(
        seed=1, optimization=dataclasses.replace(EVERYTHING.optimization, clip_norm=None)
    )
    assert EVERYTHING.differences(other) == {"seed": 1, "optimization.clip_norm": None}


def test_a_recipe_follows_the_data_unless_it_is_named():
    start = {"variant": None, "pretrained": "model"}
    for arguments, recipe, changes in (
        (("embedded",), "embedded-quick", {}),
        (("fashion-mnist",), "small-images", {}),
        (("folder",), "image-folder", {}),
        (("folder", "model"), "fine-tuning", start),
        (("folder", None, "paper-longer"), "paper-longer", {}),
        (("folder", "model", "paper-longer"), "paper-longer", start),
    ):
        assert default_config(*arguments) == RECIPES[recipe].replace(data=arguments[0], **changes)
    # The command line offers every recipe.
    assert get_args(Recipe) == tuple(RECIPES)
    with pytest.raises(ConfigError, match=r"unknown recipe 'paper-long'; did you mean 'paper-lon"):
        default_config("a", None, "paper-long")


def test_the_papers_recipes_have_the_papers_values():
    standard, longer, scaled = (
        RECIPES[f"paper-{kind}"] for kind in ("standard", "longer", "scaled")
    )
    assert [(r.epochs, r.batch_size) for r in (standard, longer)] == [(100, 1024), (200, 4096)]
    assert scaled.epochs == 350
    assert [r.optimization.weight_decay for r in (standard, longer)] == [1e-4, 8e-5]
    assert standard.augmentation.policy == "none"
    policy = longer.augmentation
    assert (policy.policy, policy.policy_layers, policy.policy_magnitude) == ("rand", 2, 10)
    assert longer.optimization.label_smoothing == 0.1
    assert not standard.optimization.nesterov


def test_a_run_directory_is_created_once_read_and_locked(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "one")
    run.create(EVERYTHING)
    assert entries(run.path) == ["run.json"]
    with pytest.raises(CheckpointError, match="or resume the run in it with --resume"):
        run.create(RunConfig())
    with pytest.raises(CheckpointError, match=r"is not empty; name another --run-directory$"):
        RunDirectory(tmp_path).create(RunConfig())
    assert run.read_config() == EVERYTHING
    with pytest.raises(CheckpointError, match="is a file; name a new folder"):
        RunDirectory(run.path / "run.json").create(RunConfig())
    for _ in range(2):
        with run.locked(), pytest.raises(CheckpointError, match="another process is training in"):
            run.locked().__enter__()


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("none.json", "", "not a run: it has no run.json"),
        *[("run.json", text, r"run\.json cannot be read") for text in ("", "{", "[]", "7")],
        *[
            ("run.json", json.dumps(values), "this is no record of a run")
            for values in ({}, {"model": 3}, {**RunConfig().to_json(), "colour": 1})
        ],
        ("run.json", '{"images": {"place": "photos"}}', r"run\.json cannot be read"),
        *[
            ("metrics.jsonl", text, r"metrics\.jsonl cannot be read")
            for text in ("{", '{"epoch": 1}\n', "[]\n")
        ],
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, file, content, told):
    run = RunDirectory(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=told):
        (run.read_metrics if file == "metrics.jsonl" else run.read_config)()


def test_metrics_are_json_lines_under_todays_keys(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.read_metrics() == []
    former = {"test_loss": 1.0, "test_accuracy": 0.5, "test_top5": 0.75, "fraction_of_peak": 0.25}
    today = {"validation_loss": 1.0, "validation_accuracy": 0.5, "validation_top5": 0.75}
    rows = [{"epoch": 1, "step": 2} | former, {"epoch": 2, "step": 4}]
    run.write_metrics(rows)
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == rows
    assert run.read_metrics() == [{"epoch": 1, "step": 2, "mfu": 0.25} | today, rows[1]]


def test_the_newest_run_is_chosen_by_what_it_has_and_whether_it_is_finished(tmp_path):
    assert newest_run(tmp_path / "nowhere", having="checkpoints") is None
    for age, name in enumerate(("c", "a", "b")):
        RunDirectory(tmp_path / name).create(RunConfig())
        (tmp_path / name / "checkpoints").mkdir()
        os.utime(tmp_path / name / "checkpoints", (age, age))
    RunDirectory(tmp_path / "without").create(RunConfig())
    (tmp_path / "no run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "b" / "pretrained").mkdir()
    newest = newest_run(tmp_path, having="checkpoints")
    unfinished = newest_run(tmp_path, having="checkpoints", unfinished=True)
    assert (newest.path.name, unfinished.path.name) == ("b", "a")
    # One that goes on to more epochs has a newer record than model.
    os.utime(tmp_path / "b" / "pretrained", (1, 1))
    assert newest_run(tmp_path, having="checkpoints", unfinished=True).path.name == "b"
    assert newest_run(tmp_path, having="curves.png") is None
