"""``botnet evaluate``: the figures of the run again, of other data, and refusals."""

import json
import shutil

import pytest
from PIL import Image

from training.tiny import CLASSES, truncated_jpeg, write_classes


def figures(called):
    assert called.code == 0, called
    result = called.json()
    return {name: result[name] for name in ("top1", "top5", "loss", "count", "per_class")}


def assert_same_figures(result, recorded):
    """All equal; in the loss the sixth decimal may round to either side."""
    assert result.pop("loss") == pytest.approx(recorded["loss"], abs=1.1e-6)
    assert result == {name: value for name, value in recorded.items() if name != "loss"}


def test_the_newest_run_gives_its_recorded_figures_again(call, run, trained):
    called = call("evaluate", "--json")
    assert called.out.count("\n") == 1
    recorded = json.loads((trained / run / "evaluation.json").read_text())
    assert_same_figures(figures(called), recorded)
    assert called.json()["checkpoint"] == str(run)
    assert recorded["count"] == 9


@pytest.mark.parametrize("batch_size", ["1", "4", "100"])
def test_whatever_the_batch_size(call, run, trained, batch_size):
    recorded = json.loads((trained / run / "evaluation.json").read_text())
    result = figures(call("evaluate", "--json", "--batch-size", batch_size))
    assert_same_figures(result, recorded)


@pytest.mark.parametrize("inside", ["", "pretrained"])
def test_a_checkpoint_by_name(call, run, inside):
    assert figures(call("evaluate", "--json", "--checkpoint", run / inside))["count"] == 9


def test_table(call, run):
    called = call("evaluate")
    assert called.code == 0, called
    assert "top-1" in called.out
    assert "images 9" in called.out
    assert "the validation split of data" in called.out
    for name in CLASSES:
        assert name in called.out


def test_the_training_split(call, run):
    assert figures(call("evaluate", "--json", "--split", "train"))["count"] == 12


def test_another_folder_is_scored_whole_and_by_class_name(call, run, trained):
    # Other order and fewer classes: labels go by name.
    write_classes(trained / "more", {"cat": 2, "bee": 3})
    result = figures(call("evaluate", "--json", "--data", "more"))
    assert [row["count"] for row in result["per_class"]] == [0, 3, 2]
    assert result["per_class"][0]["accuracy"] is None
    assert figures(call("evaluate", "--json", "--data", "more", "--split", "test"))["count"] == 2


def test_moved_images_are_the_same_images(call, run, trained):
    shutil.copytree(trained / "data/val", trained / "moved")
    here = figures(call("evaluate", "--json"))
    assert figures(call("evaluate", "--json", "--data", "moved")) == here


def test_confusion_picture(call, run, trained):
    assert call("evaluate", "--json", "--confusion", "c.png").code == 0
    with Image.open(trained / "c.png") as image:
        assert min(image.size) > 300


def test_bad_images_stop_or_are_left_out(call, fails, run, trained):
    bad = truncated_jpeg(trained / "data/val/bee/x.jpg").relative_to(trained)
    message = fails(1, "evaluate", "--json")
    assert str(bad) in message
    assert "--skip-bad-images" in message
    called = call("evaluate", "--json", "--skip-bad-images")
    recorded = json.loads((trained / run / "evaluation.json").read_text())
    assert_same_figures(figures(called), recorded)
    assert str(bad) in called.err


def test_nothing_but_bad_images(fails, run, trained):
    for path in list((trained / "data/val").rglob("*.png")):
        path.write_text("no image")
    lines = fails_with_report(fails, trained)
    assert "no images" in lines


def fails_with_report(fails, trained):
    try:
        return fails(1, "evaluate", "--skip-bad-images", "--json")
    except AssertionError as error:
        # The list of bad images may stand before the error.
        assert "could not be read" in str(error)
        return str(error)


def test_classes_that_the_model_lacks(fails, run, trained):
    write_classes(trained / "more", {"bee": 2, "wasp": 2})
    message = fails(1, "evaluate", "--data", "more")
    assert "'wasp'" in message
    assert "'ant', 'bee', 'cat'" in message


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("--data", "nowhere"), 1, "nowhere"),
        (("--checkpoint", "nowhere"), 1, "nowhere"),
        (("--batch-size", "0"), 2, "batch_size"),
        (("--split", "all"), 2, "split"),
        (("--split", "most"), 2, "split"),
        (("--image-size", "2", "2"), 2, "2 × 2"),
        (("--confusion", "nowhere/c.png"), 2, "nowhere"),
        (("--confusion", "c.doc"), 2, "c.doc"),
        (("--no-such-option",), 2, "no-such-option"),
        (("surplus",), 2, "surplus"),
    ],
)
def test_refusals(fails, run, options, code, named):
    assert named in fails(code, "evaluate", *options)


def test_a_damaged_record_of_the_run(fails, run, trained):
    (trained / run / "run.json").write_text("{")
    assert "run.json" in fails(1, "evaluate")


@pytest.mark.parametrize("spelling", ["data/", "./data", "absolute"])
def test_the_run_s_own_images_however_they_are_named(call, run, trained, spelling):
    data = trained / "data" if spelling == "absolute" else spelling
    assert figures(call("evaluate", "--json", "--data", data))["count"] == 9


def test_a_model_whose_images_are_not_known(fails, run, trained):
    shutil.copytree(trained / run / "pretrained", trained / "copied")
    assert "name images with --data" in fails(2, "evaluate", "--checkpoint", "copied")


def test_a_model_named_from_inside_its_run(call, run, trained, monkeypatch):
    recorded = (trained / run / "run.json").read_text()
    there = recorded.replace('"data": "data"', json.dumps(f"{trained}/data").join(['"data": ', ""]))
    (trained / run / "run.json").write_text(there)
    monkeypatch.chdir(trained / run / "pretrained")
    assert figures(call("evaluate", "--json", "--checkpoint", "."))["count"] == 9
