"""``botnet train`` from folders to results; refusals leave nothing half made."""

import json
import shutil

import pytest

from cli.conftest import QUICK
from training.tiny import CLASSES, entries, truncated_jpeg, write_classes


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_says_where_everything_is(call, trained):
    called = call("train", "--data", "data", *QUICK, "--run-directory", "runs/a b")
    assert called.code == 0, called
    for name in ("pretrained", "checkpoints", "curves.png", "confusion.png"):
        assert f"runs/a b/{name}" in called.out
        assert (trained / "runs/a b" / name).exists()
    assert "12 training and 9 test images, 3 classes" in called.out
    assert "test accuracy" in called.out
    assert "botnet predict 'runs/a b/example.png'" in called.out
    following = call("predict", "runs/a b/example.png")
    assert following.code == 0
    assert "runs/a b" in following.out


def test_json_is_one_line_and_nothing_else(call, trained):
    called = call("train", "--data", "data", *QUICK, "--json", "--run-directory", "runs/x")
    assert called.code == 0, called
    assert called.out.count("\n") == 1
    result = called.json()
    assert {"top1", "top5", "loss", "count", "run"} <= set(result)
    assert result.pop("run") == "runs/x"
    assert result == json.loads((trained / "runs/x/evaluation.json").read_text())


def test_the_options_are_recorded(run, trained):
    record = json.loads((trained / run / "run.json").read_text())
    assert (record["variant"], record["batch_size"], record["epochs"]) == ("botnet_tiny", 6, 2)
    assert record["data"] == "data"
    assert record["input"]["image_size"] == [16, 16]


def test_a_directory_that_holds_something_is_refused(fails, run, trained):
    before = tree(trained / run)
    message = fails(1, "train", "--data", "data", *QUICK, "--run-directory", run)
    assert str(run) in message
    assert "--resume" in message
    assert tree(trained / run) == before


def test_a_test_loss_that_is_not_finite_is_one_line_and_exit_1(fails, trained):
    # One step in all: its own loss is fine, the model after it is not.
    options = ("--learning-rate", "1e30", "--warmup-epochs", "0", "--run-directory", "wild")
    options += ("--batch-size", "12", "--epochs", "1")
    message = fails(1, "train", "--data", "data", *QUICK, *options)
    assert "not finite" in message
    assert "step 1" in message


def test_a_bad_image_stops_with_its_path_or_is_listed(call, fails, trained):
    bad = [truncated_jpeg(trained / f"data/{part}/bee/x.jpg") for part in ("train", "val")]
    bad = [str(path.relative_to(trained)) for path in bad]
    message = fails(1, "train", "--data", "data", *QUICK, "--run-directory", "one")
    assert any(path in message for path in bad)
    assert "--skip-bad-images" in message
    # One batch is the whole training set, so the bad one is in it.
    options = ("--skip-bad-images", "--batch-size", "6000", "--run-directory", "two")
    called = call("train", "--data", "data", *QUICK, *options)
    assert called.code == 0, called
    assert "batch_size 6000 is more than there are training images; 13 is used" in called.out
    assert "2 images could not be read" in called.err
    assert all(path in called.err for path in bad)
    result = json.loads((trained / "two/evaluation.json").read_text())
    assert result["count"] == 9
    scored = call("evaluate", "--checkpoint", "two", "--json", "--skip-bad-images")
    assert scored.code == 0
    assert scored.json()["count"] == 9
    assert "1 image could not be read" in scored.err
    assert bad[1] in fails(1, "evaluate", "--checkpoint", "two", "--json")


DATA_ERRORS = {
    "no such folder": lambda root: None,
    "no images": lambda root: root.mkdir(),
    "is a file": lambda root: root.write_text(""),
    "only one class": lambda root: write_classes(root, {"ant": 3}),
    "no images for 'empty'": lambda root: (
        write_classes(root, dict.fromkeys(CLASSES, 3)) / "empty"
    ).mkdir(),
    "only one image for 'cat'": lambda root: write_classes(root, {"ant": 3, "cat": 1}),
    "different classes": lambda root: (
        write_classes(root / "train", dict.fromkeys(CLASSES, 2)),
        write_classes(root / "val", dict.fromkeys((*CLASSES[1:], "dog"), 2)),
    ),
    "no val/ or test/": lambda root: write_classes(root / "train", dict.fromkeys(CLASSES, 2)),
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
        (("--variant", "botnet_tini"), "did you mean 'botnet_tiny'"),
        (("--epochs", "0"), "epochs"),
        (("--epochs", "many"), "epochs"),
        (("--batch-size", "-1"), "batch_size"),
        (("--learning-rate", "nan"), "learning_rate"),
        (("--ema-decay", "1"), "ema_decay"),
        (("--warmup-epochs", "-3"), "warmup_epochs"),
        (("--optimizer", "lion"), "optimizer"),
        (("--accumulation-steps", "5"), "accumulation_steps"),
        (("--dropout-rate", "1.5"), "dropout_rate"),
        (("--image-size", "2", "2"), "2"),
        (("--image-size", "16"), "image-size"),
        (("--image-size", "0", "16"), "size is (0, 16)"),
        (("--eval-crop", "2"), "crop"),
        (("--interpolation", "best"), "interpolation"),
        (("--validation-fraction", "1"), "validation_fraction"),
        (("--seed", "-1"), "seed"),
        (("--no-such-option",), "no-such-option"),
        (("--num-workers", "-1"), "num_workers"),
        (("--batch-size", "24", "--accumulation-steps", "8"), "batch_size"),
    ],
)
def test_bad_usage_exits_with_2_names_the_option_and_leaves_no_run(fails, trained, options, named):
    before = entries(trained / "runs")
    message = fails(2, "train", "--data", "data", *QUICK, *options)
    assert named.replace("_", "-") in message.replace("_", "-")
    assert entries(trained / "runs") == before


def test_a_resumed_run_needs_the_model_that_it_began_with(call, fails, run, trained):
    start = trained / "start"
    shutil.copytree(run / "pretrained", start)
    quick = ("--image-size", "16", "16", "--num-workers", "0", "--epochs", "1")
    arguments = ("--data", "data", "--pretrained", "start", "--run-directory", "tuned", *quick)
    assert call("train", *arguments).code == 0
    start.rename(trained / "elsewhere")
    resume = ("train", "--resume", "--run-directory", "tuned")
    assert "began from start: bring it back, or say with --pretrained" in fails(1, *resume)
    assert call(*resume, "--pretrained", "elsewhere").code == 0


def test_notes_are_said_once(call, run):
    called = call("evaluate", "--checkpoint", run, "--image-size", "24", "20")
    assert called.code == 0, called
    assert called.err.count("relative height interpolated linearly from 2 to 3") == 1
    assert called.err.count("note: ") == called.err.count("interpolated") == 2


def test_resume_without_a_run(fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no run to resume" in fails(1, "train", "--resume")
    assert "nowhere" in fails(1, "train", "--resume", "--run-directory", "nowhere")


@pytest.mark.parametrize("option", [("--seed", "1"), ("--learning-rate", "0.5"), ("--epochs", "9")])
def test_a_resumed_run_cannot_become_another(fails, run, trained, option):
    before = tree(trained / run)
    message = fails(2, "train", "--resume", *option)
    assert "cannot change" in message
    assert option[0].strip("-").replace("-", "_") in message
    assert tree(trained / run) == before


def test_resume_with_the_same_options_and_other_workers(call, run):
    called = call("train", "--resume", "--seed", "0", "--save-every-epochs", "2")
    assert called.code == 0, called
    assert str(run) in called.out


@pytest.mark.parametrize("spelling", ["--run-directory", "--run_directory"])
def test_resume_takes_the_run_that_is_named(call, run, trained, spelling):
    shutil.copytree(trained / run, trained / "older", copy_function=shutil.copy2)
    called = call("train", "--resume", spelling, "older")
    assert called.code == 0, called
    assert "older/pretrained" in called.out


@pytest.mark.parametrize("saved", [True, False], ids=["saved", "before its first checkpoint"])
def test_resume_takes_the_newest_unfinished_run(call, run, trained, saved):
    # As its help says: a run that was finished later has nothing left to resume.
    shutil.copytree(trained / run, trained / "runs" / "unfinished")
    shutil.rmtree(trained / "runs" / "unfinished" / "pretrained")
    (trained / run / "run.json").touch()
    if not saved:
        shutil.rmtree(trained / "runs" / "unfinished" / "checkpoints")
    called = call("train", "--resume")
    assert called.code == 0, called
    assert "runs/unfinished/pretrained" in called.out


def test_images_may_move_but_not_change(call, fails, run, trained):
    (trained / "data").rename(trained / "moved")
    assert call("train", "--resume", "--data", "moved").code == 0
    assert json.loads((trained / run / "run.json").read_text())["data"] == "moved"
    shutil.copy(trained / "moved/train/ant/0.png", trained / "moved/train/ant/new.png")
    assert "not those that the run began with" in fails(1, "train", "--resume")


def test_images_of_fewer_classes_are_told_as_that_and_the_run_stays_as_it_was(fails, run, trained):
    shutil.copytree(trained / "data", trained / "fewer")
    for part in ("train", "val"):
        shutil.rmtree(trained / "fewer" / part / "ant")
    shutil.rmtree(trained / run / "pretrained")
    before = tree(trained / run)
    message = fails(1, "train", "--resume", "--data", "fewer")
    assert "not those that the run began with" in message
    assert tree(trained / run) == before


def test_a_folder_that_is_taken_is_told_before_the_images_are_listed(fails, run):
    arguments = ("--data", "nowhere", "--run-directory", run)
    assert "is not empty; name another --run-directory" in fails(1, "train", *arguments)


def test_the_command_to_type_next_predicts_with_this_run(call, run, trained):
    options = ("--run-directory", "elsewhere/:dog:", "--epochs", "1")
    called = call("train", "--data", "data", *QUICK, *options)
    assert called.code == 0, called
    said = called.out.splitlines()[-1]
    expected = "botnet predict --checkpoint elsewhere/:dog: elsewhere/:dog:/example.png"
    assert said == f"next: {expected}"
    assert "model  elsewhere/:dog:" in call(*expected.split()[1:]).out


def test_what_an_option_forbids_is_told_before_a_run_is_made(fails, trained):
    before = entries(trained / "runs")
    options = ("--crop", "shift", "--shift-pixels", "16")
    assert "shift_pixels" in fails(2, "train", "--data", "data", *QUICK, *options)
    assert entries(trained / "runs") == before
