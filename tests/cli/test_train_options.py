"""The options of ``botnet train``: where their defaults come from, and what is refused."""

import shutil

import pytest

from bottleneck_transformer_flax.cli.train_options import ProcessOptions, parse
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.training.recipes import RECIPES, default_config
from bottleneck_transformer_flax.training.run_directory import RunDirectory

GOOD = {"coordinator": "node0:1234", "num_processes": 2, "process_id": 1}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A finished run and two unfinished ones, the newest of which has no checkpoint yet."""
    monkeypatch.chdir(tmp_path)
    for name in ("unfinished", "new", "finished"):
        RunDirectory(tmp_path / "runs" / name).create(default_config("photos").replace(seed=5))
    (tmp_path / "runs/unfinished/checkpoints").mkdir()
    (tmp_path / "runs/finished/pretrained").mkdir()
    return tmp_path / "runs"


@pytest.mark.parametrize(
    "arguments", [[], ["--data", "photos", "--data=embedded"], ["--seed", "0"]]
)
def test_defaults_follow_the_data_that_is_given_last(arguments):
    assert parse(arguments).config == default_config("embedded")


def test_a_recipe_and_a_pretrained_model_decide_the_defaults():
    parsed = parse(["--recipe", "paper-longer", "--data", "photos", "--policy-magnitude", "3"])
    assert parsed.config.optimization == RECIPES["paper-longer"].optimization
    assert (parsed.recipe, parsed.config.augmentation.policy_magnitude) == ("paper-longer", 3)
    parsed = parse(["--pretrained", "botnet_tiny", "--data", "photos"])
    assert parsed.config == default_config("photos", "botnet_tiny")


def test_like_starts_from_another_runs_options(runs):
    config = parse(["--like", "runs/finished", "--epochs", "3"]).config
    assert (config.seed, config.epochs, config.data) == (5, 3, "photos")
    tuned = parse(["--like", "runs/finished", "--pretrained", "model"]).config
    assert (tuned.variant, tuned.pretrained) == (None, "model")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--like", "runs/finished", "--recipe", "paper-longer"), "leave out --recipe"),
        (("--resume", "--recipe", "paper-longer"), "leave out --recipe"),
        (("--resume", "--like", "runs/finished"), "leave out --like"),
        (("--recipe", "paper-standart"), "paper-standard"),
        (("--data",), "data"),
    ],
)
def test_what_cannot_be_combined_or_read_is_told(runs, arguments, told):
    with pytest.raises(ConfigError, match=told):
        parse(arguments)


@pytest.mark.parametrize("spelling", ["--run-directory", "--run_directory"])
def test_resume_takes_the_run_that_is_named(runs, spelling):
    parsed = parse(["--resume", spelling, "runs/finished"])
    assert str(parsed.run_directory) == "runs/finished"
    assert parsed.config.seed == 5


def test_resume_takes_the_newest_unfinished_run_or_else_the_newest(runs):
    (runs / "finished/run.json").touch()
    (runs / "new/run.json").touch()
    for expected in ("new", "unfinished", "finished"):
        assert parse(["--resume"]).run_directory.name == expected
        shutil.rmtree(runs / expected)
    with pytest.raises(CheckpointError, match="no run to resume in runs/"):
        parse(["--resume"])
    with pytest.raises(CheckpointError, match="nowhere is not a run"):
        parse(["--resume", "--run-directory", "nowhere"])


@pytest.mark.parametrize("option", [("--seed", "1"), ("--learning-rate", "0.5"), ("--epochs", "9")])
def test_a_resumed_run_cannot_become_another(runs, option):
    with pytest.raises(ConfigError, match="cannot change") as caught:
        parse(["--resume", *option])
    assert option[0].strip("-").replace("-", "_") in str(caught.value)


def test_a_resumed_run_may_change_what_does_not_decide_its_result(runs):
    options = ["--data", "moved", "--num-workers", "3", "--save-every-epochs", "2"]
    config = parse(["--resume", "--seed", "5", *options, "--skip-bad-images"]).config
    assert (config.data, config.input.num_workers, config.save_every_epochs) == ("moved", 3, 2)
    assert config.input.skip_bad_images


@pytest.mark.parametrize("coordinator", ["node0:1234", "10.0.0.1:1", "[::1]:65535"])
def test_a_process_of_several(coordinator):
    assert ProcessOptions(**GOOD | {"coordinator": coordinator}).given
    assert ProcessOptions(distributed=True).given
    assert not ProcessOptions().given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coordinator": None}, "expected all three of them, or none"),
        ({"process_id": None}, "expected all three of them, or none"),
        *[
            ({"coordinator": value}, f"coordinator is '{value}'; expected HOST:PORT")
            for value in ("localhost", "localhost:", ":1234", "localhost:abc", "a:0", "a:65536")
        ],
        ({"num_processes": 0}, "num_processes is 0; expected at least 1"),
        ({"process_id": 2}, "process_id is 2; expected 0 to num_processes - 1 = 1"),
        ({"process_id": -1}, "process_id is -1"),
    ],
)
def test_impossible_processes_are_refused(changes, message):
    with pytest.raises(ConfigError) as caught:
        ProcessOptions(**GOOD | changes)
    assert message in str(caught.value)


USAGE = [
    (("--variant", "botnet_tini"), "did you mean 'botnet_tiny'"),
    (("--epochs", "0"), "epochs"),
    (("--epochs", "many"), "epochs"),
    (("--learning-rate", "nan"), "learning_rate"),
    (("--optimizer", "lion"), "optimizer"),
    (("--batch-size", "24", "--accumulation-steps", "5"), "accumulation_steps"),
    (("--image-size", "16"), "image-size"),
    (("--image-size", "0", "16"), "size is (0, 16)"),
    (("--interpolation", "best"), "interpolation"),
    (("--no-such-option",), "no-such-option"),
    (("--coordinator", "localhost", "--num-processes", "2", "--process-id", "0"), "HOST:PORT"),
]


@pytest.mark.parametrize(("options", "named"), USAGE)
def test_bad_usage_exits_with_2_and_one_line_that_names_the_option(fails, options, named):
    assert named.replace("_", "-") in fails(2, "train", *options).replace("_", "-")


def test_help_shows_the_defaults_for_the_data(call):
    called = call("train", "--data", "photos", "--resume", "--help")
    assert called.code == 0
    assert f"(default: {default_config('photos').epochs})" in " ".join(called.out.split())
