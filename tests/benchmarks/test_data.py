"""``botnet benchmark data``: tables, files, and what it says when it cannot."""

import csv
import json
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from benchmarks import data, reader_rounds, readers
from benchmarks.reader_rounds import InputResult, InputRow
from training.tiny import write_data

QUICK = ("--photograph-size", "16", "20", "--image-size", "8", "8", "--batch-size", "2")


@pytest.fixture
def asked(monkeypatch):
    """What the measuring was asked for; it gives rows of nothing."""
    asked = []

    def measure(case, names, folder, *, rounds, say):
        asked.append((case, names, rounds))
        assert all(Path(case.path(place)).is_file() for place in range(len(case.names)))
        rows = [
            InputRow(
                policy=case.policy,
                height=case.size[0],
                width=case.size[1],
                batch_size=case.batch_size,
                num_workers=case.num_workers,
                implementation=name,
                images_per_second=100.0 + place,
                lowest=90.0,
                highest=110.0,
                relative_time=1.0,
                seconds_to_first_batch=0.5,
                mean_difference=0.0,
                rounds=rounds,
                batches=8,
            )
            for place, name in enumerate(names)
        ]
        return InputResult(rows, ["timm: no such thing"] if case.num_workers == 13 else [])

    monkeypatch.setattr(reader_rounds, "measure_input", measure)
    return asked


def test_the_names_are_those_of_the_room_that_knows_them():
    assert get_args(data.Name) == get_args(readers.ReaderName)
    assert get_args(data.Name) == tuple(readers.READERS)
    assert get_args(data.PolicyName) == get_args(readers.InputPolicy)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rounds", "0"), ["rounds is 0;", "at least 1"]),
        (("--num-workers", "0"), ["num_workers is 0"]),
        (("--batch-size", "-1"), ["batch_size is -1"]),
        (("--policies", "--rounds", "2"), ["policies is empty"]),
        (("--implementations", "--rounds", "2"), ["implementations is empty"]),
        (("--implementations", "grain"), ["grain"]),
        (("--image-size", "0", "8"), ["image size is (0, 8)"]),
        (("nowhere",), ["nowhere is no folder"]),
    ],
)
def test_bad_usage_is_one_line(call, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    called = call("data", *arguments)
    assert called.code == 2
    error = called.err.strip().splitlines()[-1]
    assert error.startswith("benchmarks: error: ")
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_a_result_is_told_before_measuring(call, tmp_path, asked):
    (tmp_path / "data-rand.png").mkdir()
    called = call("data", "--out", tmp_path, *QUICK)
    assert called.code == 2
    assert f"{tmp_path / 'data-rand.png'} is to be written, but is a folder" in called.err
    assert not asked


def test_made_up_pictures_in_tables_and_files(call, tmp_path, asked):
    called = call("data", "--out", tmp_path, "--num-workers", "3", *QUICK)
    assert called.code == 0
    assert "reading random crops, 8 × 8, batch 2, 3 processes" in called.out
    assert "reading random crops, RandAugment, 8 × 8" in called.out
    assert f"written  {tmp_path / 'data.csv'}, {tmp_path / 'data-none.png'}" in called.out
    assert "measured on hardware" in called.out
    assert [case.policy for case, _, _ in asked] == ["none", "rand"]
    assert len(asked[0][0].names) == 128
    with (tmp_path / "data.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = list(get_args(data.Name))
    assert [(row["policy"], row["implementation"]) for row in rows] == [
        (policy, name) for policy in ("none", "rand") for name in names
    ]
    assert all(row["hardware"] and row["pillow"] and row["timm"] for row in rows)
    for policy in ("none", "rand"):
        with Image.open(tmp_path / f"data-{policy}.png") as picture:
            assert min(picture.size) > 200


def test_a_folder_of_images_as_json(call, tmp_path, asked):
    write_data(tmp_path / "images")
    arguments = ("--policies", "rand", "--implementations", "ours", "--json", "--batch-size", "2")
    called = call("data", tmp_path / "images", "--out", tmp_path / "out", *arguments)
    assert called.code == 0
    (line,) = called.out.splitlines()
    row = json.loads(line)
    assert (row["implementation"], row["policy"], row["rounds"]) == ("ours", "rand", 5)
    assert row["hardware"]
    ((case, names, _),) = asked
    assert str(case.root).startswith(str(tmp_path / "images"))
    assert names == ["ours"]


def test_too_few_images_for_a_batch(call, tmp_path, asked):
    write_data(tmp_path / "images")
    called = call("data", tmp_path / "images", "--out", tmp_path / "out")
    assert called.code == 2
    assert "batch_size is 64 but" in called.err
    assert "training images; choose a batch_size of at most" in called.err


def test_what_goes_wrong_is_told_and_the_rest_kept(call, tmp_path, asked):
    called = call("data", "--out", tmp_path, "--num-workers", "13", *QUICK)
    assert called.code == 1
    assert "benchmarks: error: timm: no such thing" in called.err
    assert (tmp_path / "data.csv").exists()


def test_a_peer_that_is_not_installed_is_a_note(call, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(readers.Reader, "missing", lambda reader: list(reader.packages))
    called = call("data", "--out", tmp_path, "--policies", "none", *QUICK)
    assert called.code == 0
    assert "timm is left out: it needs torch and timm (pip install torch timm)" in called.err
    assert asked[0][1] == ["ours", "ours-threads", "plain-loop"]
    called = call("data", "--out", tmp_path, "--implementations", "timm", *QUICK)
    assert called.code == 2


@pytest.mark.slow
def test_everyone_is_measured(call, tmp_path):
    chosen = ("--policies", "none", "--rounds", "1", "--num-workers", "1")
    called = call("data", "--out", tmp_path, *chosen, *QUICK)
    assert called.code == 0, called.err
    with (tmp_path / "data.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["implementation"] for row in rows] == list(get_args(data.Name))
    assert all(float(row["mean_difference"]) < 4 for row in rows)
