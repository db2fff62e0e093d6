"""``botnet data``: pack and show, what they print and write, and refusals."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.data.datasets import fingerprint, load_splits
from training.tiny import CLASSES, truncated_jpeg, write_classes, write_data


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of classes called "images", and beside it."""
    monkeypatch.chdir(tmp_path)
    return write_classes(tmp_path / "images", dict.fromkeys(CLASSES, 4))


def test_packed_images_are_the_same_data_set(call, images):
    called = call("data", "pack", "images", "out", "--shards", "2", "--num-workers", "0")
    assert called.code == 0, called
    size = sum(file.stat().st_size for file in (images.parent / "out").rglob("*.arrayrecord"))
    assert called.out.splitlines() == [
        "packed   images: 12 images",
        f"written  out: 2 files, {size / 1e6:.1f} MB",
        "next: botnet train --data out",
    ]
    assert called.err == ""
    assert fingerprint(load_splits("out")) == fingerprint(load_splits("images"))


def test_pack_json_and_parts(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "images")
    called = call("data", "pack", "images", "out", "--json")
    assert called.out.count("\n") == 1
    result = called.json()
    assert result.pop("bytes") > 0
    assert result == {
        "data": "images",
        "out": "out",
        "images": {"train": 12, "val": 9},
        "files": 2,
        "left_out": [],
    }
    assert "packed   images: 12 train images and 9 val images" in (
        call("data", "pack", "images", "out").out
    )


def test_bad_images_stop_it_or_are_listed(call, fails, images):
    truncated_jpeg(images / "bee/x.jpg")
    message = fails(1, "data", "pack", "images", "out")
    assert "images/bee/x.jpg: cannot be read as an image" in message
    assert message.endswith("--skip-bad-images")
    called = call("data", "pack", "images", "out", "--skip-bad-images")
    assert called.code == 0, called
    assert "left out 1 that cannot be read:\n  images/bee/x.jpg: cannot be read" in called.out
    assert (
        len(call("data", "pack", "images", "out", "--skip-bad-images", "--json").json()["left_out"])
        == 1
    )


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (1, ("nowhere", "out"), "nowhere: no such folder"),
        (1, ("images/ant/0.png", "out"), "is a file; expected a folder"),
        (1, ("empty", "out"), "no images found in class folders"),
        (1, ("empty", "out"), "or what botnet data pack wrote"),
        (2, ("images", "images"), "images is in images, which is to be packed"),
        (2, ("images", "images/below/it"), "is in images, which is to be packed"),
        (2, ("images", "empty/../images/out"), "which is to be packed"),
        (2, ("images", "images/ant/0.png"), "is to be packed"),
        (2, ("images", "full"), "full is not empty; name a new folder"),
        (2, ("images", "full/file"), "file is a file; name a new folder"),
        (1, ("images", "full/file/out"), "full/file/out: Not a directory"),
        (2, ("images", "out", "--shards", "0"), "shards is 0; expected 1 to 12"),
        (2, ("images", "out", "--num-workers", "-1"), "num_workers is -1; expected at least 0"),
        (2, ("images",), "required"),
    ],
)
def test_what_cannot_be_packed(fails, images, code, arguments, message):
    (images.parent / "empty").mkdir()
    (images.parent / "full").mkdir()
    (images.parent / "full/file").touch()
    assert message in fails(code, "data", "pack", *arguments)
    assert not (images.parent / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be written by root")
def test_a_folder_that_cannot_be_written(fails, images):
    (images.parent / "locked").mkdir(mode=0o500)
    assert "Permission denied" in fails(1, "data", "pack", "images", "locked/out")


def test_other_images_are_not_mixed_in(call, fails, images):
    assert call("data", "pack", "images", "out").code == 0
    (images / "ant/0.png").unlink()
    assert "out holds other images packed" in fails(2, "data", "pack", "images", "out")


def test_an_interruption_is_one_line_and_the_same_command_goes_on(call, images, tmp_path):
    # The last image is a pipe that nobody writes to: whoever reads it waits.
    os.mkfifo(tmp_path / "pipe")
    (images / "cat/slow.png").symlink_to(tmp_path / "pipe")
    arguments = ["data", "pack", "images", "out", "--shards", "13", "--num-workers", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "bottleneck_transformer_flax", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and finished(tmp_path / "out") < 12:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (1, "", "botnet: error: interrupted\n")
    deadline = time.monotonic() + 10
    while left := list(tmp_path.glob("out/**/.*.new")):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    written = {file.name: file.stat().st_ino for file in tmp_path.glob("out/all/part*")}
    assert len(written) == 12
    (images / "cat/slow.png").unlink()
    (images / "cat/slow.png").write_bytes((images / "cat/0.png").read_bytes())
    assert call(*arguments).code == 0
    after = {file.name: file.stat().st_ino for file in tmp_path.glob("out/all/*.arrayrecord")}
    assert written.items() < after.items()
    assert len(after) == 13
    assert fingerprint(load_splits("out")) == fingerprint(load_splits("images"))


def finished(out):
    """How many files are recorded."""
    file = out / "packing.json"
    return len(json.loads(file.read_text())["parts"]["all"]) if file.exists() else 0


def test_show(call, images):
    called = call("data", "show", "images", "--count", "3", "--versions", "2")
    assert called.code == 0, called
    assert called.out.splitlines() == [
        "data     9 training and 3 validation images, 3 classes (images)",
        "changes  crops of 25 to 100 % of the area, half of them mirrored",
        "written  sheet.png",
    ]
    with Image.open("sheet.png") as image:
        image.load()
        assert image.height > 3 * 200


def pixels(path):
    with Image.open(path) as image:
        return image.tobytes()


def test_show_is_decided_by_the_seed_and_the_augmentation(call, images):
    def shown(*options):
        arguments = ("--count", "3", "--versions", "2", "--image-size", "32", "48", *options)
        called = call("data", "show", "images", "--json", "--out", "s.png", *arguments)
        assert called.out.count("\n") == 1
        result = called.json()
        assert (result["data"], result["out"]) == ("images", "s.png")
        return result["images"], pixels("s.png")

    names, first = shown()
    assert len(set(names)) == 3
    assert all(name.startswith("images/") for name in names)
    assert shown() == (names, first)
    assert shown("--seed", "1")[0] != names
    for options in (
        ("--policy", "trivial"),
        ("--mixup-alpha", "1"),
    ):
        same_names, other = shown(*options)
        assert same_names == names
        assert other != first, options


def test_without_any_change_training_sees_what_is_evaluated(call, images):
    def columns(*options):
        assert call("data", "show", "images", "--versions", "1", *options).code == 0
        with Image.open("sheet.png") as image:
            sheet = np.asarray(image.convert("RGB"))[-2000:]
        # Images of 64 pixels are shown four times as large; between the two is a gap.
        trained = slice(-(24 + 6 + 256), -(24 + 6))
        evaluated = slice(trained.start - 6 - 26 - 256, trained.start - 6 - 26)
        return sheet[:, evaluated], sheet[:, trained]

    evaluated, trained = columns("--crop", "none", "--no-flip")
    np.testing.assert_array_equal(evaluated, trained)
    assert evaluated.std() > 10
    evaluated_still, trained = columns()
    np.testing.assert_array_equal(evaluated, evaluated_still)
    assert (evaluated != trained).any()


def test_show_of_the_data_set_in_the_package(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = call("data", "show", "--count", "1", "--versions", "1", "--crop", "shift")
    assert called.code == 0, called
    assert "changes  moved by up to 2 pixels" in called.out


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (1, ("nowhere",), "nowhere: no such folder"),
        (2, ("images", "--out", "sheet.jpg"), "sheet.jpg; expected a name that ends in .png"),
        (2, ("images", "--out", "no/sheet.png"), "no is not a folder"),
        (2, ("images", "--count", "0"), "count is 0; expected 1 to 100"),
        (2, ("images", "--versions", "21"), "versions is 21; expected 1 to 20"),
        (2, ("images", "--min-scale", "2"), "min_scale is 2"),
        (2, ("images", "--image-size", "0", "8"), "image size is (0, 8)"),
        (2, ("images", "--seed", "-1"), "seed is -1; expected an integer in [0, 2**32)"),
        (2, ("images", "--recipe", "x"), "Unrecognized options"),
    ],
)
def test_what_cannot_be_shown(fails, images, code, arguments, message):
    assert message in fails(code, "data", "show", *arguments)
    assert not (images.parent / "sheet.png").exists()


def test_a_bad_image_that_is_drawn_is_named(fails, images):
    for number in range(4):
        truncated_jpeg(images / f"bee/{number}.png")
    assert "images/bee/" in fails(1, "data", "show", "images", "--count", "100")
