"""The record of a run: its JSON, what it refuses, and the folder it is written to."""

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
from bottleneck_transformer_flax.training.recipes import (
    EMBEDDED_QUICK,
    FINE_TUNING,
    IMAGE_FOLDER,
    PAPER_LONGER,
    RECIPES,
    SMALL_IMAGES,
    default_config,
)
from bottleneck_transformer_flax.training.run_directory import RunDirectory, newest_run
from training.tiny import entries

EVERYTHING = RunConfig(
    data="images/蜂",
    variant="botnet_tiny",
    epochs=3,
    batch_size=6,
    seed=2**32 - 1,
    evaluate_every_epochs=2,
    save_every_epochs=3,
    model=ModelOptions(dropout_rate=0.25, stochastic_depth_rate=0.1, dtype="bfloat16"),
    optimization=OptimizerOptions(
        optimizer="adamw",
        clip_norm=0.5,
        accumulation_steps=3,
        ema_decay=0.99,
        warmup_epochs=0.5,
        remat=True,
    ),
    input=InputOptions(image_size=(32, 24), num_workers=2, skip_bad_images=True),
    augmentation=Augmentation(crop="shift", shift_pixels=3),
)


@pytest.mark.parametrize(
    "config", [RunConfig(), EVERYTHING, SMALL_IMAGES, IMAGE_FOLDER, FINE_TUNING]
)
def test_json_and_back(config):
    text = json.dumps(config.to_json())
    assert RunConfig.from_json(json.loads(text)) == config
    assert json.dumps(RunConfig.from_json(json.loads(text)).to_json()) == text


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().epochs = 3


WRONG = [
    *[(name, "top", v) for name in ("epochs", "batch_size") for v in (0, -1)],
    *[(name, "top", 0) for name in ("evaluate_every_epochs", "save_every_epochs")],
    *[("seed", "top", value) for value in (-1, 2**32)],
    ("variant", "top", "botnet_tini"),
    *[("optimizer", "optimization", value) for value in ("adam", "")],
    *[
        ("learning_rate", "optimization", value)
        for value in (0.0, -1.0, float("inf"), float("nan"))
    ],
    *[("warmup_epochs", "optimization", value) for value in (-1.0, float("inf"), float("nan"))],
    *[("momentum", "optimization", value) for value in (-0.1, 1.0, float("nan"))],
    *[("weight_decay", "optimization", value) for value in (-1.0, float("nan"), float("inf"))],
    *[("label_smoothing", "optimization", value) for value in (-0.1, 1.0, float("nan"))],
    *[("clip_norm", "optimization", value) for value in (0.0, -1.0, float("nan"))],
    *[("accumulation_steps", "optimization", value) for value in (0, -1, 7)],
    *[("ema_decay", "optimization", value) for value in (0.0, 1.0, -0.5, float("nan"))],
    *[("dropout_rate", "model", value) for value in (-0.1, 1.0)],
    *[("stochastic_depth_rate", "model", value) for value in (-0.1, 1.0)],
    ("dtype", "model", "float16"),
    ("num_workers", "input", -1),
    # More than there are epochs, the last of which would not have the whole size.
    *[("progressive_phases", "input", value) for value in (0, 91)],
    ("pretrained", "top", 5),
    *[("eval_crop", "input", value) for value in (0.0, 1.5, float("nan"))],
]


def with_value(part, name, value):
    values = RunConfig().to_json()
    (values if part == "top" else values[part])[name] = value
    return RunConfig.from_json(values)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(("name", "part", "value"), WRONG)
def test_a_wrong_value_is_named(name, part, value):
    with pytest.raises(ConfigError) as caught:
        with_value(part, name, value)
    message = str(caught.value)
    assert name in message or (name == "variant" and "botnet_tini" in message)
    assert str(value) in message
    assert "\n" not in message


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        RunConfig(epochs=0, seed=-1, optimization=OptimizerOptions(ema_decay=2.0))
    for name in ("epochs", "seed", "ema_decay"):
        assert name in str(caught.value)


def test_an_unknown_variant_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'botnet_tiny'"):
        RunConfig(variant="botnet_tini")


@pytest.mark.parametrize("values", [{}, {"model": 3}, {**RunConfig().to_json(), "colour": 1}])
def test_the_record_of_something_else(values):
    with pytest.raises(ConfigError, match="not the record of a run"):
        RunConfig.from_json(values)


def test_recipes_follow_the_data():
    assert default_config("embedded") == EMBEDDED_QUICK.replace(data="embedded")
    assert default_config("fashion-mnist") == SMALL_IMAGES.replace(data="fashion-mnist")
    assert default_config("some/folder") == IMAGE_FOLDER.replace(data="some/folder")
    assert default_config("a", "b") == FINE_TUNING.replace(data="a", pretrained="b")
    assert default_config("a", None, "paper-longer") == PAPER_LONGER.replace(data="a")
    from_weights = default_config("a", "b", "paper-longer")
    assert from_weights == PAPER_LONGER.replace(data="a", variant=None, pretrained="b")
    with pytest.raises(ConfigError, match=r"unknown recipe 'paper-long'; did you mean 'paper-lon"):
        default_config("a", None, "paper-long")


def test_the_command_line_offers_every_recipe():
    assert get_args(Recipe) == tuple(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_run_that_its_record_repeats(name):
    assert RunConfig.from_json(json.loads(json.dumps(RECIPES[name].to_json()))) == RECIPES[name]


def test_what_the_paper_says_of_its_recipes():
    standard, longer, scaled = (
        RECIPES[f"paper-{name}"] for name in ("standard", "longer", "scaled")
    )
    assert [(r.epochs, r.batch_size) for r in (standard, longer)] == [(100, 1024), (200, 4096)]
    assert scaled.epochs == 350
    assert standard.optimization.weight_decay == 1e-4
    assert longer.optimization.weight_decay == 8e-5
    assert scaled.optimization.weight_decay < longer.optimization.weight_decay
    assert standard.augmentation.policy == "none"
    policy = longer.augmentation
    assert (policy.policy, policy.policy_layers, policy.policy_magnitude) == ("rand", 2, 10)
    assert longer.optimization.label_smoothing == 0.1
    assert not standard.optimization.nesterov


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"variant": None}, "neither variant nor pretrained is given"),
        ({"pretrained": "a"}, "variant is botnet_tiny beside pretrained a.*leave out variant"),
        (
            {"fine_tuning": FineTuningOptions(frozen_through="c3", backbone_rate=0.1)},
            "frozen_through is 'c3', backbone_rate is 0.1 without a pretrained model",
        ),
    ],
)
def test_what_a_run_starts_from(changes, told):
    with pytest.raises(ConfigError, match=told):
        RunConfig(**changes)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    "options",
    [
        {"frozen_through": "head"},
        {"backbone_rate": -0.1},
        {"backbone_rate": 1.5},
        {"backbone_rate": float("nan")},
    ],
)
def test_wrong_fine_tuning(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        FINE_TUNING.replace(fine_tuning=FineTuningOptions(**options))


def test_a_record_from_before_there_was_fine_tuning():
    values = RunConfig().to_json()
    del values["fine_tuning"], values["pretrained"]
    # It held these always, and for data in memory they meant nothing.
    values["input"] |= {"eval_crop": 0.875, "interpolation": "bicubic"}
    assert RunConfig.from_json(values) == RunConfig()
    values["input"]["eval_crop"] = 0.9
    assert RunConfig.from_json(values).input.eval_crop == 0.9


def test_a_run_is_written_and_read(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "one")
    run.create(EVERYTHING)
    assert entries(run.path) == ["run.json"]
    assert run.read_config() == EVERYTHING
    with pytest.raises(CheckpointError, match="--resume"):
        run.create(RunConfig())
    assert run.read_config() == EVERYTHING


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file; name a new folder"):
        RunDirectory(tmp_path / "file").create(RunConfig())


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"epochs": 1}'])
def test_a_damaged_record(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        RunDirectory(tmp_path).read_config()


def test_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="not a run"):
        RunDirectory(tmp_path).read_config()


def test_metrics_are_json_lines(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_metrics([{"epoch": 1}, {"epoch": 2}])
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == [
        {"epoch": 1},
        {"epoch": 2},
    ]


def test_the_newest_run_that_has_what_is_asked_for(tmp_path):
    assert newest_run(tmp_path / "nowhere", having="pretrained") is None
    for age, name in enumerate(["b", "a", "c"]):
        RunDirectory(tmp_path / name).create(RunConfig())
        (tmp_path / name / "pretrained").mkdir()
        os.utime(tmp_path / name / "pretrained", (1000 - age, 1000 - age))
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "pretrained").mkdir()
    RunDirectory(tmp_path / "unfinished").create(RunConfig())
    assert newest_run(tmp_path, having="pretrained") == RunDirectory(tmp_path / "b")
    assert newest_run(tmp_path, having="checkpoints") is None


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    run = RunDirectory(tmp_path)
    with run.locked(), pytest.raises(CheckpointError, match="another process is training in"):
        run.locked().__enter__()
    with run.locked():
        pass


@pytest.mark.parametrize(("field", "value"), [("data", 3), ("epochs", 2.5), ("epochs", "3")])
def test_a_value_of_another_type(field, value):
    with pytest.raises(ConfigError):
        RunConfig.from_json(RunConfig().to_json() | {field: value})


def test_the_newest_run_is_by_what_it_has(tmp_path):
    for age, name in enumerate(("c", "a", "b")):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
        os.utime(tmp_path / name / "checkpoints", (age, age))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.json").touch()
    (tmp_path / "b" / "pretrained").mkdir()
    newest = newest_run(tmp_path, having="checkpoints")
    unfinished = newest_run(tmp_path, having="checkpoints", lacking="pretrained")
    assert (newest.path.name, unfinished.path.name) == ("b", "a")
    assert newest_run(tmp_path, having="curves.png") is None
