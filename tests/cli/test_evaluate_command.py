"""``botnet evaluate``: which images are scored, what is said about them, and refusals."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.cli import evaluate, model_images
from bottleneck_transformer_flax.data.datasets import load_parts, load_splits
from bottleneck_transformer_flax.data.packing import pack
from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
from bottleneck_transformer_flax.training.config import InputOptions
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.run_images import load_images, record_images
from reference.finished_runs import random_predictions
from training.tiny import CLASSES, truncated_jpeg, write_classes


@pytest.fixture(autouse=True)
def run(finished_run):
    return finished_run


@pytest.fixture
def scored(monkeypatch):
    """The sources that were scored, without a model."""
    sources = []

    def score(pretrained, source, **options):
        sources.append(source)
        return random_predictions(source)

    monkeypatch.setattr(evaluate, "score", score)
    return sources


def record(run, data, validation_fraction=0.1):
    """Write the run down as one that was trained on the images that are in a folder now."""
    directory = RunDirectory(run)
    inputs = InputOptions(validation_fraction=validation_fraction)
    config = directory.read_config().replace(data=data, input=inputs)
    directory.write_config(config, record_images(directory, config, load_images(config)))


@pytest.fixture
def photos(run, tmp_path):
    """Images without parts that the run was trained on; three of them are its validation split."""
    write_classes(tmp_path / "photos", dict.fromkeys(CLASSES, 6))
    record(run, "photos")
    return tmp_path / "photos"


def test_the_scores_are_the_library_s_and_bad_images_stop_or_are_left_out(call, fails, run):
    model, variables, preprocessing, _ = load_pretrained(run)
    found = Evaluator(model, preprocessing, batch_size=9)(variables, load_splits("data").validation)
    bad = truncated_jpeg(run / "../../data/val/bee/x.jpg").name
    record(run, "data")
    message = fails(1, "evaluate", "--json")
    assert bad in message and "--skip-bad-images" in message
    called = call("evaluate", "--json", "--skip-bad-images", "--batch-size", "4")
    assert called.out.count("\n") == 1
    assert bad in called.err
    result, expected = called.json(), found.to_json(CLASSES)
    # The sixth decimal may round to either side.
    for name in ("loss", "ece"):
        assert result.pop(name) == pytest.approx(expected.pop(name), abs=1.1e-6)
    assert result == expected | {
        "checkpoint": str(run),
        "data": "10 images: the validation split of data (val/)",
        "split": "validation",
        "origin": "val/",
    }


def test_a_table_and_pictures(call, run, scored, tmp_path):
    called = call("evaluate", "--confusion", "c.png", "--reliability", "r.png")
    assert called.code == 0, called
    # Of three classes, the right one is always among the likeliest five.
    assert "top-5" not in called.out
    found = random_predictions(scored[0])
    for text in (
        "top-1",
        "images 9",
        "the validation split of data",
        f"balanced accuracy {100 * found.balanced_accuracy:.2f} %",
        f"macro-F1 {found.macro_f1:.4f}",
        f"(ECE) {100 * found.ece:.2f} %",
        *CLASSES,
    ):
        assert text in called.out
    for picture in ("c.png", "r.png"):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 300


def test_a_class_is_one_row_whatever_its_name(call, run, scored):
    names = ["ant\nwith wings", "b\re\u2028e", "[red]cat 猫"]
    (run / "pretrained/classes.json").write_text(json.dumps(names))
    for old, new in zip(CLASSES, names, strict=True):
        Path("data/val", old).rename(Path("data/val", new))
    out = call("evaluate", "--data", "data/val").out
    rows = [line.split("  ")[0].strip() for line in out.splitlines()]
    assert rows[-3:] == [r"ant\nwith wings", r"b\re\u2028e", "[red]cat 猫"]


@pytest.mark.parametrize("named", ["photos/", "absolute", "link", "copy", "packed"])
def test_the_run_s_own_images_are_known_however_and_wherever_they_are_named(
    call, scored, photos, tmp_path, named
):
    if named == "absolute":
        named = str(photos)
    elif named == "link":
        (tmp_path / named).symlink_to(photos)
    elif named == "copy":
        shutil.copytree(photos, tmp_path / named)
    elif named == "packed":
        pack(load_parts("photos", in_order=True), tmp_path / named, num_workers=0)
    called = call("evaluate", "--json", "--data", named)
    assert called.err == ""
    result = called.json()
    assert result["data"] == f"3 images: the validation split of {named}"
    assert (result["split"], result["count"]) == ("validation", 3)
    told = call("evaluate", "--json", "--data", named, "--split", "all").err
    assert told == "note: runs/one was trained on 15 of these 18 images\n"


def test_without_data_the_run_s_images_are_found_from_anywhere_or_it_is_said(
    call, fails, scored, run, photos, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # Other images in the place that the record names as text.
    write_classes(tmp_path / "elsewhere/photos", dict.fromkeys(CLASSES, 2))
    checkpoints = [tmp_path / run / part for part in ("", "pretrained")]
    for checkpoint in checkpoints:
        called = call("evaluate", "--json", "--checkpoint", checkpoint)
        assert called.err == ""
        assert called.json()["data"] == f"3 images: the validation split of {photos}"
    photos.rename(tmp_path / "moved")
    told = fails(1, "evaluate", "--checkpoint", checkpoints[0])
    assert f"{photos} does not exist; photos holds other images: " in told
    assert told.endswith("; name their folder with --data")
    moved = call("evaluate", "--json", "--checkpoint", checkpoints[0], "--data", "../moved")
    assert (moved.json()["split"], moved.err) == ("validation", "")


@pytest.mark.parametrize(
    ("asked_for", "scored_split", "count"),
    [("train", "train", 12), (None, "test", 6), ("validation", "validation", 9)],
)
def test_every_split_is_scored_and_named(call, scored, tmp_path, asked_for, scored_split, count):
    write_classes(tmp_path / "data/test", dict.fromkeys(CLASSES, 2))
    options = () if asked_for is None else ("--split", asked_for)
    called = call("evaluate", "--json", *options)
    result = called.json()
    assert (result["split"], result["count"]) == (scored_split, count)
    folder = {"train": "train/", "validation": "val/", "test": "test/"}[scored_split]
    assert result["data"] == f"{count} images: the {scored_split} split of data ({folder})"
    assert result["origin"] == folder


def test_another_folder_is_scored_whole_and_by_class_name(call, run, scored, tmp_path):
    # Other order and fewer classes: labels go by name.
    write_classes(tmp_path / "data/more", {"cat": 2, "bee": 3})
    for image in (tmp_path / "data/more").glob("*/*.png"):
        image.rename(image.with_name(f"new {image.name}"))
    shutil.copytree(run, "data/more/runs/one")
    called = call("evaluate", "--json", "--data", "data/more")
    assert called.err == "note: data/more: left out what botnet wrote: 'data/more/runs'\n"
    result = called.json()
    assert (result["split"], result["data"]) == ("all", "5 images: all of data/more")
    assert [row["count"] for row in result["per_class"]] == [0, 3, 2]
    assert result["per_class"][0]["accuracy"] is None
    assert scored[0].labels.tolist() == [1, 1, 1, 2, 2]
    result = call("evaluate", "--json", "--data", "data/more", "--split", "validation").json()
    assert (result["count"], result["origin"]) == (2, "held out of more/")


def test_a_part_of_the_run_s_images_is_named_and_images_that_may_be_among_them_are_noted(
    call, scored, run, tmp_path
):
    record(run, "data")
    for part, what in (("train", "trained"), ("val", "validated")):
        called = call("evaluate", "--json", "--data", f"data/{part}")
        count = 12 if part == "train" else 9
        named = f"{count} images: all of data/{part}, which {run} was {what} on"
        assert (called.json()["data"], called.err) == (named, "")
    # One image of a class, which could not be split.
    shutil.copytree(tmp_path / "data/val", tmp_path / "few")
    for image in ("ant/1", "ant/2", "bee/0"):
        (tmp_path / f"few/{image}.png").unlink()
    (tmp_path / "few/bee/1.png").rename(tmp_path / "few/bee/new.png")
    called = call("evaluate", "--json", "--data", "few")
    assert called.json()["data"] == "6 images: all of few"
    assert called.err.startswith(
        "note: 5 of these images have the class and name of an image that runs/one was trained on; "
    )
    (tmp_path / "data").rename("moved")
    told = call("evaluate", "--json", "--data", "few").err
    assert told == (
        "note: whether runs/one was trained on any of these images cannot be told: the images of "
        "runs/one are not found: data does not exist\n"
    )


def test_what_a_model_was_trained_on_may_be_unknown_and_is_then_noted(call, scored, run, tmp_path):
    file = run / "run.json"
    record = json.loads(file.read_text())
    del record["images"]
    file.write_text(json.dumps(record))
    for named in ((), ("--data", "data")):
        called = call("evaluate", "--json", *named)
        assert called.json()["split"] == "validation"
        assert called.err.startswith("note: runs/one has no record of the images that it was")
    (run / "pretrained").rename("copied")
    called = call("evaluate", "--json", "--checkpoint", "copied", "--data", "data/val")
    assert called.json()["split"] == "all"
    assert called.err == "note: whether copied was trained on any of these images is not known\n"
    assert model_images.images_of("botnet_tiny", None).find()[0] == "embedded"


def test_images_that_are_not_known_or_not_there_are_refused(fails, run, tmp_path):
    for split in ("all", "test"):
        assert fails(2, "evaluate", "--split", split).endswith(
            f"the data set 'data' has no {split} split; choose --split train or --split "
            "validation, or name other images with --data"
        )
    (tmp_path / "data/train").rename(tmp_path / "one")
    record(run, "one", validation_fraction=0.0)
    for split in ((), ("--split", "validation")):
        assert fails(2, "evaluate", *split).endswith(
            "no images of the folder 'one' are held out, because the run held none out; choose "
            "--split train or --split all, or name other images with --data"
        )
    (run / "pretrained").rename("copied")
    assert "name images with --data" in fails(2, "evaluate", "--checkpoint", "copied")
