"""``botnet predict``: files, folders and standard input; bad files don't stop the good ones."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.cli import predict
from bottleneck_transformer_flax.data.sources import walking
from bottleneck_transformer_flax.figures.style import new_figure, save_png
from bottleneck_transformer_flax.inference.predictor import Predictor
from cli.conftest import QUICK
from training.tiny import CLASSES, truncated_jpeg

GOOD = ("data/val/ant/0.png", "data/val/bee/1.png", "data/val/cat/2.png")


@pytest.fixture(autouse=True)
def run(finished_run):
    return finished_run


def lines_of(called):
    return [json.loads(line) for line in called.out.splitlines()]


def test_predictions_are_the_library_s_and_a_table_shows_them(call, run):
    rankings = [prediction.ranking for prediction in Predictor(load_pretrained(run))(GOOD)]
    called = call("predict", *GOOD, "--json", "--batch-size", "2")
    assert (called.code, called.err) == (0, "")
    for line, name, ranking in zip(lines_of(called), GOOD, rankings, strict=True):
        assert set(line) == {"image", "predictions"}
        assert line["image"] == name
        found = [(one["class"], one["probability"]) for one in line["predictions"]]
        assert [label for label, _ in found] == [label for label, _ in ranking]
        np.testing.assert_allclose([p for _, p in found], [p for _, p in ranking], rtol=1e-5)
    table = call("predict", GOOD[0], "--image-size", "24", "16", "--top-k", "2").out
    assert table.splitlines()[:2] == [f"model  {run}", GOOD[0]]
    assert table.count("%") == 2


def test_folders_are_searched_as_for_training(call, run):
    """To any depth, in order, through links, without hidden files, other kinds and runs."""
    Path("data/val/notes.txt").write_text("no image")
    Path("data/val/link").symlink_to(Path("data/train/ant").absolute())
    shutil.copy(GOOD[0], "data/val/bee/._hidden.png")
    shutil.copytree(run, "data/val/bee/run")
    called = call("predict", "data", "--json", "--batch-size", "2")
    assert called.err == "note: data: left out what botnet wrote: 'data/val/bee/run'\n"
    lines = lines_of(called)
    expected = [f"data/train/{name}/{index}.png" for name in CLASSES for index in range(4)]
    expected += [f"data/val/{name}/{index}.png" for name in CLASSES for index in range(3)]
    expected += [f"data/val/link/{index}.png" for index in range(4)]
    assert [line["image"] for line in lines] == expected


def test_images_in_a_folder_that_cannot_be_decoded_are_counted_and_the_others_predicted(call):
    for name in ("a.cr2", "b.CR2", "c.jxl", "notes.txt"):
        (Path("photos") / name).parent.mkdir(exist_ok=True)
        (Path("photos") / name).touch()
    told = "photos: has files that cannot be decoded here (2 .cr2, 1 .jxl); "
    told += "convert them to JPEG or PNG"
    called = call("predict", "photos")
    assert (called.code, called.err) == (1, f"botnet: error: {told}\n")
    shutil.copy(GOOD[0], "photos")
    called = call("predict", "photos", "--json")
    assert called.code == 1
    error, predicted = lines_of(called)
    assert error == {"image": "photos", "error": told}
    assert predicted["image"] == "photos/0.png"


def test_figures_in_a_folder_are_left_out_and_refused_where_named(call, monkeypatch):
    """As they are listed where there are few PNG files, and else as they are decoded."""
    Path("photos").mkdir()
    shutil.copy(GOOD[0], "photos")
    save_png(new_figure(1.0, 1.0), Path("photos/sheet.png"))
    told = "photos/sheet.png: is a figure that botnet drew, and not an image to classify"
    listed = "photos: left out what botnet wrote: 'photos/sheet.png'"
    for most_opened, note in ((20, listed), (0, f"left out {told}")):
        monkeypatch.setattr(walking, "_MOST_OPENED", most_opened)
        called = call("predict", "photos", "--json")
        assert (called.code, called.err) == (0, f"note: {note}\n")
        assert [line["image"] for line in lines_of(called)] == ["photos/0.png"]
    called = call("predict", "photos/sheet.png")
    assert (called.code, called.err) == (1, f"botnet: error: {told}\n")


@pytest.mark.parametrize(
    "command",
    [
        ("predict", GOOD[0]),
        ("evaluate", "--num-workers", "0"),
        ("data", "pack", "data/val", "packed", "--num-workers", "0"),
        ("data", "show", "data"),
        ("train", "--data", "data/val", *QUICK),
    ],
)
def test_every_command_that_reads_images_limits_their_pixels(fails, monkeypatch, command):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    told = fails(1, *command, "--max-pixels", "100")
    assert "it has 256 pixels, and more than 100 may be an attack" in told
    assert "--max-pixels 256" in told


@pytest.mark.parametrize("batch_size", ["1", "32"])
def test_bad_files_are_reported_in_their_place_and_the_others_predicted(
    call, tmp_path, monkeypatch, batch_size
):
    options = ("--json", "--batch-size", batch_size)
    alone = [line["predictions"] for line in lines_of(call("predict", *GOOD, *options))]
    truncated_jpeg(tmp_path / "cut.jpg")
    Path("text.png").write_text("no image")
    Path("empty").mkdir()
    bad = ("cut.jpg", "missing.png", "text.png", "empty")
    piped = io.TextIOWrapper(io.BytesIO(Path(GOOD[1]).read_bytes()))
    monkeypatch.setattr(sys, "stdin", piped)
    # The second time, nothing is left on standard input.
    names = (GOOD[0], *bad[:2], "-", *bad[2:], GOOD[2], "-")
    called = call("predict", *names, *options)
    assert called.code == 1
    lines = lines_of(called)
    assert [line["image"].replace("standard input", "-") for line in lines] == list(names)
    errors = [line for line in lines if "error" in line]
    assert [line["image"] for line in errors] == [*bad, "standard input"]
    assert all(set(line) == {"image", "error"} for line in errors)
    assert all(line["image"] in line["error"] for line in errors)
    assert [line["predictions"] for line in lines if "error" not in line] == alone
    assert called.err.splitlines() == [f"botnet: error: {line['error']}" for line in errors]


def test_a_newline_in_a_name_breaks_no_line_and_no_table(capsys):
    predict._report("x\ny.png", [("a\nb", 0.75), ("cat", 0.25)], as_json=False)
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == r"x\ny.png"
    assert [row.split()[0] for row in rows] == [r"a\nb", "cat"]
