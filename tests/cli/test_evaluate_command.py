"""``botnet evaluate``: which images are scored, what is said about them, and refusals."""

import json
import shutil

import pytest
from PIL import Image

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.cli import evaluate
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
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


def test_the_scores_are_the_library_s_and_bad_images_stop_or_are_left_out(call, fails, run):
    model, variables, preprocessing, _ = load_pretrained(run)
    found = Evaluator(model, preprocessing, batch_size=9)(variables, load_splits("data").validation)
    bad = truncated_jpeg(run / "../../data/val/bee/x.jpg").name
    message = fails(1, "evaluate", "--json")
    assert bad in message and "--skip-bad-images" in message
    called = call("evaluate", "--json", "--skip-bad-images", "--batch-size", "4")
    assert called.out.count("\n") == 1
    assert bad in called.err
    result, expected = called.json(), found.to_json(CLASSES)
    # The sixth decimal may round to either side.
    assert result.pop("loss") == pytest.approx(expected.pop("loss"), abs=1.1e-6)
    assert result == expected | {
        "checkpoint": str(run),
        "data": "10 images: the validation split of data",
        "split": "validation",
    }


def test_a_table_and_a_picture(call, run, scored, tmp_path):
    called = call("evaluate", "--confusion", "c.png")
    assert called.code == 0, called
    for text in ("top-1", "top-5", "images 9", "the validation split of data", *CLASSES):
        assert text in called.out
    with Image.open(tmp_path / "c.png") as image:
        assert min(image.size) > 300


@pytest.mark.parametrize("spelling", ["data/", "./data", "absolute"])
def test_the_run_s_own_images_however_run_and_images_are_named(
    call, run, scored, tmp_path, monkeypatch, spelling
):
    shutil.rmtree(tmp_path / "data/train")
    for name in CLASSES:
        (tmp_path / "data/val" / name).rename(tmp_path / "data" / name)
    shutil.rmtree(tmp_path / "data/val")
    data = tmp_path / "data" if spelling == "absolute" else spelling
    named = [call("evaluate", "--json", "--data", data)]
    named += [call("evaluate", "--json", "--checkpoint", run / part) for part in ("", "pretrained")]
    record = json.loads((run / "run.json").read_text()) | {"data": str(tmp_path / "data")}
    (run / "run.json").write_text(json.dumps(record))
    monkeypatch.chdir(run / "pretrained")
    named.append(call("evaluate", "--json", "--checkpoint", "."))
    assert {(one.json()["split"], one.json()["count"]) for one in named} == {("validation", 3)}


@pytest.mark.parametrize(
    ("splits", "asked_for", "scored_split", "count"),
    [
        ("train val", "train", "train", 12),
        ("train val", "test", "validation", 9),
        ("train val test", None, "test", 6),
        ("train val test", "validation", "validation", 9),
    ],
)
def test_every_split_is_scored_and_named(
    call, scored, tmp_path, splits, asked_for, scored_split, count
):
    if "test" in splits:
        write_classes(tmp_path / "data/test", dict.fromkeys(CLASSES, 2))
    options = () if asked_for is None else ("--split", asked_for)
    called = call("evaluate", "--json", *options)
    result = called.json()
    assert (result["split"], result["count"]) == (scored_split, count)
    assert f"the {scored_split} split of data" in result["data"]
    replaced = asked_for not in (None, scored_split)
    assert ("data has no test split; scoring its validation split" in called.err) == replaced


def test_another_folder_is_scored_whole_and_by_class_name(call, scored, tmp_path):
    # Other order and fewer classes: labels go by name.
    write_classes(tmp_path / "more", {"cat": 2, "bee": 3})
    result = call("evaluate", "--json", "--data", "more").json()
    assert (result["split"], result["data"]) == ("all", "5 images: all of more")
    assert [row["count"] for row in result["per_class"]] == [0, 3, 2]
    assert result["per_class"][0]["accuracy"] is None
    assert scored[0].labels.tolist() == [1, 1, 1, 2, 2]
    result = call("evaluate", "--json", "--data", "more", "--split", "validation").json()
    assert result["count"] == 2


def test_images_that_are_not_known_or_not_there_are_refused(fails, run, tmp_path):
    assert "'all', but data has splits" in fails(2, "evaluate", "--split", "all")
    record = json.loads((run / "run.json").read_text())
    record["input"]["validation_fraction"] = 0.0
    (run / "run.json").write_text(json.dumps(record))
    (tmp_path / "data/val").rename(tmp_path / "data/test")
    assert "no validation split" in fails(1, "evaluate", "--split", "validation")
    (run / "pretrained").rename("copied")
    assert "name images with --data" in fails(2, "evaluate", "--checkpoint", "copied")
