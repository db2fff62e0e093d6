"""``botnet benchmark``: tables, files, and what it says when it cannot."""

import csv
import json
import os
from typing import get_args

import pytest
from PIL import Image

from benchmarks import conditions, networks, rounds
from benchmarks.cases import WORKLOADS
from benchmarks.implementations import (
    IMPLEMENTATIONS,
    FreedMemory,
)
from benchmarks.rounds import Result, Row
from benchmarks.workers import WorkerError

SMALL = ("--variant", "botnet26t_256", "--image-size", "64", "64", "--batch-sizes", "1")


def test_the_names_are_those_of_the_rooms_that_know_them():
    assert get_args(networks.Workload) == WORKLOADS
    assert get_args(networks.Name) == tuple(IMPLEMENTATIONS)
    assert networks.FreedMemory == FreedMemory


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inference", "--rounds", "0"), ["rounds is 0;", "at least 1"]),
        (("inference", "--batch-sizes", "4", "0"), ["batch_sizes is (4, 0)", "at least 1"]),
        (("attention", "--grids", "-3"), ["grids is (-3,)"]),
        (("inference", "--variant", "botnet_t33"), ["unknown variant 'botnet_t33'", "botnet_t3"]),
        (("inference", "--implementations", "tensorflow"), ["tensorflow"]),
        (
            ("inference", "--image-size", "8", "8", "--implementations", "ours"),
            ["8 × 8 pixels", "at least 16"],
        ),
        (("training", "--implementations", "onnxruntime"), ["no implementation", "training"]),
        (("inference", "--implementations", "--rounds", "2"), ["implementations is empty"]),
        (("attention", "--variant", "resnet50"), ["resnet50", "no layer for attention"]),
    ],
)
def test_bad_usage_is_one_line(call, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    called = call(*arguments)
    assert called.code == 2
    error = called.err.strip().splitlines()[-1]
    assert error.startswith("benchmarks: error: ")
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


def test_the_folder_must_not_be_a_file(call, tmp_path):
    (tmp_path / "file").touch()
    for out in ("file", "file/folder"):
        called = call("training", "--out", str(tmp_path / out))
        assert called.code == 2
        assert f"{tmp_path / 'file'} is a file; name a folder that can be made" in called.err


def test_a_folder_in_the_place_of_a_result_is_told_before_measuring(call, tmp_path):
    (tmp_path / "training.png").mkdir()
    called = call("training", "--out", str(tmp_path))
    assert called.code == 2
    assert f"{tmp_path / 'training.png'} is to be written, but is a folder" in called.err


def test_the_folder_must_be_one_that_can_be_made(call, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    called = call("training", "--out", str(tmp_path / "a" / "b"))
    assert called.code == 2
    assert f"{tmp_path} cannot be written to" in called.err


def fake_result(case, names):
    """Rows as ``measure`` gives them, of nothing."""
    height, width = case.size
    numbers = dict.fromkeys(("p50_seconds", "p95_seconds", "relative_time", "compile_seconds"), 1.0)
    rows = [
        Row(
            workload=case.workload,
            variant=case.variant,
            height=height,
            width=width,
            batch_size=case.batch_size,
            implementation=name,
            images_per_second=1.0,
            peak_memory_bytes=1,
            temporaries_bytes=1,
            fraction_of_peak=0.5,
            largest_difference=0.0,
            rounds=1,
            calls=1,
            **numbers,
        )
        for name in names
    ]
    return Result(rows, [], [])


def implementations(path):
    with path.open() as file:
        return [(row["height"], row["implementation"]) for row in csv.DictReader(file)]


def test_what_does_not_fit_into_memory_is_named_and_left_out(call, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "measure", lambda case, names, **_: fake_result(case, names))
    # Four heads' weights at 64 × 64 are 268 MB, of which four copies are 1.07 GB.
    monkeypatch.setattr(conditions, "available_memory_bytes", lambda: 2 * 10**9)
    chosen = ("--implementations", "ours", "reference", "timm", "--out", str(tmp_path))
    called = call("attention", "--grids", "14", "64", *chosen)
    assert called.code == 0
    assert "reference is left out" not in called.err
    left_out = "timm is left out of 64 × 64: attention weights take it about 1.1 GB, and 0.9 GB are"
    assert left_out in called.err
    names = ["ours", "reference", "timm"]
    expected = [*(("14", name) for name in names), ("64", "ours"), ("64", "reference")]
    assert implementations(tmp_path / "attention.csv") == expected


def test_where_nothing_fits_into_memory_the_other_grids_are_measured(call, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "measure", lambda case, names, **_: fake_result(case, names))
    monkeypatch.setattr(conditions, "available_memory_bytes", lambda: 10**9)
    chosen = ("--implementations", "reference", "timm", "--out", str(tmp_path))
    called = call("attention", "--grids", "64", "14", *chosen)
    assert called.code == 1
    assert "no implementation fits into memory at 64 × 64" in called.err
    expected = [("14", "reference"), ("14", "timm")]
    assert implementations(tmp_path / "attention.csv") == expected


def test_gradients_of_few_positions_keep_the_weights(call, tmp_path, monkeypatch):
    """So this library's own are counted there as well."""
    monkeypatch.setattr(rounds, "measure", lambda case, names, **_: fake_result(case, names))
    monkeypatch.setattr(conditions, "available_memory_bytes", lambda: 10**9)
    chosen = ("--implementations", "ours", "--batch-sizes", "64", "--out", str(tmp_path))
    called = call("attention-training", "--grids", "39", "40", *chosen)
    assert called.code == 1
    assert "ours is left out of 39 × 39" in called.err
    assert implementations(tmp_path / "attention-training.csv") == [("40", "ours")]


@pytest.mark.parametrize(("named", "code", "word"), [(False, 0, "note"), (True, 1, "error")])
def test_who_is_not_made_for_it_is_missed_where_it_was_named(
    call, tmp_path, monkeypatch, named, code, word
):
    reason = "timm: timm has no parts for this network"
    result = lambda case, names, **_: fake_result(case, names[:1])._replace(unable=[reason])  # noqa: E731
    monkeypatch.setattr(rounds, "measure", result)
    chosen = ("--implementations", "ours", "timm") if named else ()
    called = call("training", "--out", str(tmp_path), *chosen)
    assert called.code == code
    (line,) = [line for line in called.err.splitlines() if reason in line]
    assert word in line


def test_too_little_memory_is_one_line(call, tmp_path, monkeypatch):
    def measure(case, names, **_):
        raise MemoryError("Unable to allocate 96.0 GiB")

    monkeypatch.setattr(rounds, "measure", measure)
    called = call("training", "--out", str(tmp_path))
    assert called.code == 1
    assert "benchmarks: error: not enough memory: Unable to allocate 96.0 GiB" in called.err


def test_what_was_measured_before_an_error_is_kept(call, tmp_path, monkeypatch):
    def measure(case, names, **_):
        if case.size == (7, 7):
            raise WorkerError("timm: its process ended with exit code -9")
        return fake_result(case, names)

    monkeypatch.setattr(rounds, "measure", measure)
    chosen = ("--implementations", "ours", "timm", "--out", str(tmp_path))
    called = call("attention", "--grids", "5", "7", *chosen)
    assert called.code == 1
    assert "timm: its process ended with exit code -9" in called.err
    assert implementations(tmp_path / "attention.csv") == [("5", "ours"), ("5", "timm")]
    assert (tmp_path / "attention.png").stat().st_size > 0


@pytest.mark.slow
def test_tables_files_and_json(call, tmp_path):
    chosen = ("--implementations", "ours", "timm", "--rounds", "2", "--out", str(tmp_path / "out"))
    called = call("inference", "attention", *SMALL, "--grids", "3", *chosen)
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

    called = call("inference", *SMALL, *chosen, "--json")
    lines = [json.loads(line) for line in called.out.splitlines()]
    assert [line["implementation"] for line in lines] == ["ours", "timm"]
    assert lines[0]["relative_time"] == 1
