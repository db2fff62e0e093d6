"""``botnet export``, and the commands that take what it writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from training.tiny import write_classes

GOOD = ("data/val/ant/0.png", "data/val/bee/1.png", "data/val/cat/2.png")


@pytest.fixture
def model(call, finished_run):
    called = call("export", "--out", "model.onnx", "--with-features")
    assert called.code == 0, called
    return "model.onnx"


def lines_of(called):
    return [json.loads(line) for line in called.out.splitlines()]


def test_an_exported_model_predicts_and_scores_as_its_run_does(call, finished_run, model):
    own, exported = (
        lines_of(call("predict", *GOOD, "--json", *checkpoint))
        for checkpoint in ((), ("--checkpoint", model))
    )
    for ours, theirs in zip(own, exported, strict=True):
        assert [one["class"] for one in ours["predictions"]] == [
            one["class"] for one in theirs["predictions"]
        ]
        for one, other in zip(ours["predictions"], theirs["predictions"], strict=True):
            assert other["probability"] == pytest.approx(one["probability"], abs=1e-4)
    own = call("evaluate", "--json").json()
    exported = call("evaluate", "--checkpoint", model, "--data", "data", "--json").json()
    assert (exported["top1"], exported["count"]) == (own["top1"], own["count"])
    assert exported["loss"] == pytest.approx(own["loss"], rel=1e-3)


def test_a_summary_says_what_was_compared(call, finished_run):
    told = call("export", "--out", "model.onnx")
    assert "compared largest difference" in told.out
    assert "next     botnet predict --checkpoint model.onnx IMAGE" in told.out
    summary = call("export", "--out", "b.onnx", "--with-attention", "--json").json()
    assert summary["format"] == "onnx"
    assert summary["num_classes"] == 3
    assert set(summary["differences"]) == {"probabilities", "attention_c5_block_1"}
    summary = call(
        "export", "--format", "triton", "--out", "models", "--name", "a", "--json"
    ).json()
    assert (summary["file"], summary["format"]) == ("models", "triton")
    assert Path("models/a/1/model.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--out", "model"), "whose ending names no format; expected .onnx, .html, .stablehlo"),
        (("--out", "m.safetensors", "--raw"), "timm's files hold weights alone; leave out --raw"),
        (
            ("--out", "m.onnx", "--name", "a"),
            "--name is for triton and html; leave it out for onnx",
        ),
        (("--out", "m.onnx", "--format", "onnxx"), "invalid choice"),
    ],
)
def test_what_cannot_be_written_is_told_at_once(fails, finished_run, arguments, told):
    assert told in fails(2, "export", *arguments)


def test_calibration_images_of_other_classes_are_refused(fails, finished_run):
    write_classes(Path("others"), {"dog": 3, "elk": 3})
    told = fails(1, "export", "--format", "int8", "--out", "model.onnx", "--data", "others")
    assert "'dog', 'elk'" in told
    assert not Path("model.onnx").exists()


def test_a_place_that_cannot_be_written_to_is_named(fails, finished_run):
    Path("file").touch()
    assert "file" in fails(1, "export", "--out", "file/model.onnx")


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_features_are_written_with_the_names_of_the_images(call, finished_run, suffix):
    called = call("features", *GOOD, "data/val/none.png", "--out", f"features.{suffix}")
    assert called.code == 1
    assert "none.png: cannot be read" in called.err
    assert f"written  features.{suffix}: 128 features of 3 images" in called.out
    if suffix == "npz":
        with np.load("features.npz") as found:
            assert found["names"].tolist() == list(GOOD)
            assert found["features"].shape == (3, 128)
    else:
        from pyarrow import parquet

        table = parquet.read_table("features.parquet")
        assert table["name"].to_pylist() == list(GOOD)
        assert np.array(table["features"].to_pylist()).shape == (3, 128)


def test_an_exported_file_gives_the_same_features(call, finished_run, model):
    for checkpoint, out in (((), "own.npz"), (("--checkpoint", model), "exported.npz")):
        called = call("features", *GOOD, *checkpoint, "--out", out, "--json")
        assert called.json()["count"] == 3
    with np.load("own.npz") as own, np.load("exported.npz") as exported:
        np.testing.assert_allclose(exported["features"], own["features"], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((GOOD[0], "--out", "features.csv"), 2, "expected the name of a .npz or .parquet file"),
        (("--out", "features.npz"), 2, "no image was named"),
    ],
)
def test_features_that_cannot_be_written_are_told(fails, finished_run, arguments, code, told):
    assert told in fails(code, "features", *arguments)


def test_neighbours_score_the_features(call, fails, finished_run):
    result = call("evaluate", "--knn", "3", "--num-workers", "0", "--json").json()
    assert result["count"] == 9
    assert "by their 3 nearest neighbours" in result["data"]
    assert result["top1"] >= 0
    assert "expected from 1 to 12" in fails(2, "evaluate", "--knn", "13", "--num-workers", "0")
    told = fails(2, "evaluate", "--knn", "3", "--split", "train", "--num-workers", "0")
    assert "among their own neighbours" in told
