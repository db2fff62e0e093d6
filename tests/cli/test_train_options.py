"""The options of ``botnet train``: where their defaults come from, and what is refused."""

import os
import shutil

import pytest

from bottleneck_transformer_flax.cli.train_options import (
    ProcessOptions,
    choose_for,
    parse,
    with_steps,
)
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.training.recipes import RECIPES, default_config
from bottleneck_transformer_flax.training.run_directory import ImageRecord, RunDirectory
from training.tiny import CLASSES, write_classes


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A finished run and two unfinished ones, the newest of which has no checkpoint yet."""
    monkeypatch.chdir(tmp_path)
    # Times of their own, for what is written within one tick of the clock has the same.
    for started, name in enumerate(("unfinished", "finished", "new")):
        run = RunDirectory(tmp_path / "runs" / name)
        run.create(default_config("photos").replace(seed=5))
        os.utime(run.path / "run.json", (started, started))
    (tmp_path / "runs/unfinished/checkpoints").mkdir()
    (tmp_path / "runs/finished/pretrained").mkdir()
    return tmp_path / "runs"


def test_defaults_follow_the_data_that_is_given_last(call):
    for arguments in ([], ["--data", "photos", "--data=embedded"], ["--seed", "0"]):
        assert parse(arguments).config == default_config("embedded")
    described = call("train", "--data", "photos", "--resume", "--help").out
    assert f"(default: {default_config('photos').epochs})" in " ".join(described.split())


def test_a_recipe_and_a_pretrained_model_decide_the_defaults():
    parsed = parse(["--recipe", "paper-longer", "--data", "photos", "--policy-magnitude", "3"])
    assert parsed.config.optimization == RECIPES["paper-longer"].optimization
    assert (parsed.recipe, parsed.config.augmentation.policy_magnitude) == ("paper-longer", 3)
    parsed = parse(["--pretrained", "botnet_tiny", "--data", "photos"])
    assert parsed.config == default_config("photos", "botnet_tiny")


def test_the_images_of_a_folder_decide_the_defaults_and_given_options_override_them(call, tmp_path):
    data = str(write_classes(tmp_path, dict.fromkeys(CLASSES, 4)))
    arguments, splits = ["--data", data, "--epochs", "7"], load_splits(data)
    choice = choose_for(arguments, splits)
    assert choice.recipe == "small-images"
    config = parse(arguments, choice).config
    assert config == choice.config.replace(data=data, epochs=7)
    assert choose_for([*arguments, "--variant", "botnet50"], splits).config.variant == "botnet50"
    tuning = [*arguments, "--pretrained", "botnet_tiny"]
    tuned = parse(tuning, choose_for(tuning, splits)).config
    assert (tuned.epochs, tuned.pretrained, tuned.variant) == (7, "botnet_tiny", None)
    assert tuned.fine_tuning == RECIPES["fine-tuning"].fine_tuning
    decided = (["--recipe", "paper-longer"], ["--like", "runs/1"], ["--resume"])
    for other in (*decided, ["--data", "fashion-mnist"], ["--data", "embedded"]):
        assert choose_for([*arguments, *other], splits) is None
    described = " ".join(call("train", "--data", data, "--help").out.split())
    assert f"(default: {config.batch_size})" in described
    assert f"(default: {default_config(data).batch_size})" not in described
    assert call("train", "--data", data, "--epochs", "0", "--help").code == 0


def test_like_starts_from_another_runs_options(runs):
    config = parse(["--like", "runs/finished", "--epochs", "3"]).config
    assert (config.seed, config.epochs, config.data) == (5, 3, "photos")
    # The same images from anywhere.
    (runs / "photos").mkdir()
    run, there = RunDirectory(runs / "finished"), str(runs / "photos")
    run.write_config(config, ImageRecord(path=there, path_from_run="../photos"))
    assert parse(["--like", "runs/finished"]).config.data == there
    assert parse(["--like", "runs/finished", "--data", "more"]).config.data == "more"
    tuned = parse(["--like", "runs/finished", "--pretrained", "model"]).config
    assert (tuned.variant, tuned.pretrained) == (None, "model")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--like", "runs/finished", "--recipe", "paper-longer"), "leave out --recipe"),
        (("--resume", "--recipe", "paper-longer"), "leave out --recipe"),
        (("--resume", "--like", "runs/finished"), "leave out --like"),
        (("--resume", "--time", "5m"), "leave out --time"),
        (("--time", "5m", "--epochs", "3"), "leave out --epochs"),
        (("--time", "5m", "--max-steps", "3"), "leave out --max-steps"),
        (("--time", "0m"), "'0m' is no time; expected such as 15m, 1h30m or 90s"),
        (("--time", "soon"), "'soon' is no time"),
        (("--time", "15"), "'15' is no time"),
        (("--recipe", "paper-standart"), "paper-standard"),
        (("--data",), "data"),
    ],
)
def test_what_cannot_be_combined_or_read_is_told(runs, arguments, told):
    with pytest.raises(ConfigError, match=told):
        parse(arguments)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("1h30m", 5400), ("1m1s", 61)]
)
def test_a_time_becomes_the_steps_that_fit_whatever_way_it_is_typed(text, seconds):
    for typed in (["--time", text], [f"--time={text}"]):
        arguments = ["--seed", "3", *typed, "--no-flip"]
        assert parse(arguments).time.total_seconds() == seconds
        typed = ["--seed", "3", "--no-flip", "--epochs", "2", "--max-steps", "7"]
        assert with_steps(arguments, 7, epochs=2) == typed


def test_resume_takes_the_run_that_is_named_or_the_newest_unfinished_or_to_extend_the_newest(runs):
    for spelling in ("--run-directory", "--run_directory"):
        parsed = parse(["--resume", spelling, "runs/finished"])
        assert (str(parsed.run_directory), parsed.config.seed) == ("runs/finished", 5)
    for expected in ("new", "unfinished"):
        assert parse(["--resume"]).run_directory.name == expected
        shutil.rmtree(runs / expected)
    with pytest.raises(CheckpointError, match="every run in runs/ is finished; --epochs trains"):
        parse(["--resume"])
    assert parse(["--resume", "--epochs", "99"]).run_directory.name == "finished"
    with pytest.raises(CheckpointError, match="nowhere is not a run"):
        parse(["--resume", "--run-directory", "nowhere"])


def test_a_resumed_run_may_change_its_length_and_what_does_not_decide_its_result(runs):
    for option, value in (("seed", "1"), ("learning-rate", "0.5"), ("batch-size", "9")):
        with pytest.raises(ConfigError, match=f"cannot change --{option}; "):
            parse(["--resume", f"--{option}", value])
    options = ["--data", "moved", "--num-workers", "3", "--save-every-epochs", "2"]
    options += ["--epochs", "99", "--patience", "3"]
    config = parse(["--resume", "--seed", "5", *options, "--skip-bad-images"]).config
    assert (config.data, config.input.num_workers, config.save_every_epochs) == ("moved", 3, 2)
    assert config.input.skip_bad_images
    assert (config.epochs, config.patience) == (99, 3)


def test_coordinator_number_and_index_are_given_together_and_checked():
    good = {"coordinator": "node0:1234", "num_processes": 2, "process_id": 1}
    for coordinator in ("node0:1234", "10.0.0.1:1", "[::1]:65535"):
        assert ProcessOptions(**good | {"coordinator": coordinator}).given
    assert ProcessOptions(distributed=True).given
    assert not ProcessOptions().given
    no_ports = ("localhost", "localhost:", ":1234", "localhost:abc", "a:0", "a:65536")
    for name, value, message in (
        ("coordinator", None, "expected all three of them, or none"),
        ("process_id", None, "expected all three of them, or none"),
        *(
            ("coordinator", host, f"coordinator is '{host}'; expected HOST:PORT")
            for host in no_ports
        ),
        ("num_processes", 0, "num_processes is 0; expected at least 1"),
        ("process_id", 2, "process_id is 2; expected 0 to num_processes - 1 = 1"),
        ("process_id", -1, "process_id is -1"),
    ):
        with pytest.raises(ConfigError) as caught:
            ProcessOptions(**good | {name: value})
        assert message in str(caught.value)
