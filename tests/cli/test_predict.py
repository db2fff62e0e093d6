"""``botnet predict``: files, folders and standard input; bad files don't stop the good ones."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.inference.predictor import Predictor
from training.tiny import CLASSES, truncated_jpeg

GOOD = ("data/val/ant/0.png", "data/val/bee/1.png", "data/val/cat/2.png")


def lines_of(called):
    return [json.loads(line) for line in called.out.splitlines()]


def by_library(run, names):
    """What the library says of the files, in the form of the JSON lines."""
    images = []
    for name in names:
        with Image.open(name) as image:
            images.append(image.convert("RGB"))
    return [
        {"image": name, "predictions": [{"class": c, "probability": p} for c, p in ranking]}
        for name, ranking in zip(names, Predictor(load_pretrained(run))(images), strict=True)
    ]


def assert_same_lines(ours, expected):
    assert [line["image"] for line in ours] == [line["image"] for line in expected]
    for mine, his in zip(ours, expected, strict=True):
        assert set(mine) == {"image", "predictions"}
        assert [p["class"] for p in mine["predictions"]] == [p["class"] for p in his["predictions"]]
        np.testing.assert_allclose(
            [p["probability"] for p in mine["predictions"]],
            [p["probability"] for p in his["predictions"]],
            rtol=1e-5,
        )


def test_files_with_the_newest_run(call, run):
    called = call("predict", *GOOD, "--json")
    assert called.code == 0, called
    assert called.err == ""
    assert_same_lines(lines_of(called), by_library(run, GOOD))


def test_the_newest_of_several_runs_is_taken(call, run, trained):
    shutil.copytree(trained / run, trained / "runs" / "a-later-one")
    pretrained = trained / "runs" / "a-later-one" / "pretrained"
    (pretrained / "classes.json").write_text('["x", "y", "z"]')
    os.utime(pretrained, (2e9, 2e9))
    called = call("predict", GOOD[0], "--json")
    assert {p["class"] for p in lines_of(called)[0]["predictions"]} == {"x", "y", "z"}
    named = call("predict", GOOD[0], "--json", "--checkpoint", run)
    assert {p["class"] for p in lines_of(named)[0]["predictions"]} == set(CLASSES)


def test_table(call, run):
    called = call("predict", *GOOD[:2])
    assert called.code == 0, called
    assert str(run) in called.out.splitlines()[0]
    for name in (*GOOD[:2], *CLASSES):
        assert name in called.out
    assert called.out.count("%") == 6


def test_folders_are_searched_to_any_depth_in_order(call, run, trained):
    (trained / "data/val/notes.txt").write_text("no image")
    called = call("predict", "data/val", "--json")
    assert called.code == 0, called
    names = [line["image"] for line in lines_of(called)]
    assert names == [f"data/val/{name}/{index}.png" for name in CLASSES for index in range(3)]


def test_batches_and_batch_size_don_t_matter(call, run):
    one, all_at_once = (
        lines_of(call("predict", "data/val", "--json", "--batch-size", size)) for size in (1, 100)
    )
    assert_same_lines(one, all_at_once)


def test_standard_input(call, run, monkeypatch):
    content = Path(GOOD[1]).read_bytes()

    class Piped:
        buffer = io.BytesIO(content)

    monkeypatch.setattr(sys, "stdin", Piped)
    called = call("predict", GOOD[0], "-", "--json")
    assert called.code == 0, called
    expected = by_library(run, GOOD[:2])
    expected[1]["image"] = "standard input"
    assert_same_lines(lines_of(called), expected)


def test_standard_input_that_is_no_image(call, run, monkeypatch):
    class Piped:
        buffer = io.BytesIO(b"")

    monkeypatch.setattr(sys, "stdin", Piped)
    called = call("predict", "-")
    assert called.code == 1
    assert called.err.startswith("botnet: error: ")
    assert "standard input" in called.err


@pytest.mark.parametrize("batch_size", ["1", "32"])
def test_bad_files_are_reported_and_the_others_predicted(call, run, trained, batch_size):
    truncated_jpeg(trained / "cut.jpg")
    (trained / "text.png").write_text("no image")
    (trained / "empty").mkdir()
    names = (GOOD[0], "cut.jpg", "missing.png", GOOD[1], "text.png", "empty", GOOD[2])
    called = call("predict", *names, "--json", "--batch-size", batch_size)
    assert called.code == 1
    lines = lines_of(called)
    assert [line["image"] for line in lines] == list(names)
    bad = [line for line in lines if "error" in line]
    assert [line["image"] for line in bad] == ["cut.jpg", "missing.png", "text.png", "empty"]
    assert all(set(line) == {"image", "error"} and line["image"] in line["error"] for line in bad)
    assert_same_lines([line for line in lines if "error" not in line], by_library(run, GOOD))
    told = called.err.splitlines()
    assert len(told) == 4
    assert all(line.startswith("botnet: error: ") for line in told)


def test_a_missing_file_without_json(call, run):
    called = call("predict", "missing.png", GOOD[0])
    assert called.code == 1
    assert called.err.splitlines() == [
        "botnet: error: missing.png: cannot be read as an image: no such file or directory"
    ]
    assert GOOD[0] in called.out


@pytest.mark.parametrize(("top_k", "given"), [("1", 1), ("2", 2), ("100", 3)])
def test_top_k(call, run, top_k, given):
    called = call("predict", GOOD[0], "--json", "--top-k", top_k)
    assert len(lines_of(called)[0]["predictions"]) == given


def test_another_image_size(call, run):
    called = call("predict", GOOD[0], "--json", "--image-size", "24", "16")
    assert called.code == 0, called


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((GOOD[0], "--top-k", "0"), "top_k"),
        ((GOOD[0], "--batch-size", "0"), "batch_size"),
        ((GOOD[0], "--image-size", "1", "1"), "1 × 1"),
        ((GOOD[0], "--top-k", "few"), "top-k"),
        ((GOOD[0], "--no-such-option"), "no-such-option"),
        ((), "image"),
    ],
)
def test_bad_usage_exits_with_2(fails, run, options, named):
    assert named in fails(2, "predict", *options).lower()


@pytest.mark.parametrize("name", ["nowhere", "data", "data/val/ant/0.png"])
def test_a_checkpoint_that_is_none(fails, run, name):
    assert name in fails(1, "predict", GOOD[0], "--checkpoint", name)


def test_a_damaged_checkpoint_is_one_line(fails, run, trained):
    weights = trained / run / "pretrained" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:99])
    assert "model.safetensors" in fails(1, "predict", GOOD[0])


def test_folders_are_searched_as_for_training(call, run, trained):
    (trained / "other").mkdir()
    (trained / "other/link").symlink_to(trained / "data/val/ant")
    shutil.copy(trained / GOOD[0], trained / "other/._hidden.png")
    called = call("predict", "other", "--json")
    assert called.code == 0, called
    names = [line["image"] for line in lines_of(called)]
    assert names == [f"other/link/{index}.png" for index in range(3)]
