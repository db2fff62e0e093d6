"""``botnet benchmark``: tables, files, and what it says when it cannot."""

import csv
import json

import pytest
from PIL import Image

SMALL = ("--variant", "botnet26t_256", "--image-size", "64", "64", "--batch-sizes", "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rounds", "0"), ["rounds is (0,)", "at least 1"]),
        (("--batch-sizes", "4", "0"), ["batch_sizes is (4, 0)", "at least 1"]),
        (("attention", "--grids", "-3"), ["grids is (-3,)"]),
        (("--variant", "botnet_t33"), ["unknown variant 'botnet_t33'", "botnet_t3"]),
        (("speed",), ["speed"]),
        (("--implementations", "tensorflow"), ["tensorflow"]),
        (("--image-size", "8", "8", "--implementations", "ours"), ["8 × 8 pixels", "at least 16"]),
        (("training", "--implementations", "onnxruntime"), ["no implementation", "training"]),
    ],
)
def test_bad_usage_is_one_line(call, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    called = call("benchmark", *arguments)
    assert called.code == 2
    error = called.err.strip().splitlines()[-1]
    assert error.startswith("botnet: error: ")
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


def test_the_folder_must_not_be_a_file(call, tmp_path):
    (tmp_path / "file").touch()
    called = call("benchmark", "--out", str(tmp_path / "file"))
    assert called.code == 2
    assert "which is a file; name a folder" in called.err


@pytest.mark.slow
def test_tables_files_and_json(call, tmp_path):
    chosen = ("--implementations", "ours", "timm", "--rounds", "2", "--out", str(tmp_path / "out"))
    called = call("benchmark", "inference", "attention", *SMALL, "--grids", "3", *chosen)
    assert called.code == 0
    assert "inference of botnet26t_256, 64 × 64, batch 1" in called.out
    assert "attention of botnet26t_256, 3 × 3, batch 1" in called.out
    assert "measured on hardware" in called.out
    for workload in ("inference", "attention"):
        with (tmp_path / "out" / f"{workload}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["implementation"] for row in rows] == ["ours", "timm"]
        assert all(float(row["largest_difference"]) < 1e-4 for row in rows)
        assert all(row["hardware"] and row["torch"] and row["jax"] for row in rows)
        with Image.open(tmp_path / "out" / f"{workload}.png") as picture:
            assert min(picture.size) > 300

    called = call("benchmark", "inference", *SMALL, *chosen, "--json")
    lines = [json.loads(line) for line in called.out.splitlines()]
    assert [line["implementation"] for line in lines] == ["ours", "timm"]
    assert lines[0]["relative_time"] == 1
