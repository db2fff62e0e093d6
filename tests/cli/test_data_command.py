"""``botnet data``: what pack and show print and write, and how they refuse."""

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
    """A folder of classes called "images", in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_classes(tmp_path / "images", dict.fromkeys(CLASSES, 4))


def test_packed_images_are_the_same_data_set(call, images):
    truncated_jpeg(images / "bee/x.jpg")
    arguments = ("data", "pack", "images", "out", "--shards", "2", "--skip-bad-images")
    called = call(*arguments)
    size = sum(file.stat().st_size for file in (images.parent / "out").rglob("*.arrayrecord"))
    assert (called.code, called.err) == (0, "")
    (reason,) = [line for line in called.out.splitlines() if line.startswith("  ")]
    assert reason.startswith("  images/bee/x.jpg: cannot be read as an image")
    assert called.out.splitlines() == [
        "packed   images: 12 images",
        "left out 1 that cannot be read:",
        reason,
        f"written  out: 2 files, {size / 1e6:.1f} MB",
        "next: botnet train --data out",
    ]
    (images / "bee/x.jpg").unlink()
    assert fingerprint(load_splits("out")) == fingerprint(load_splits("images"))


def test_parts_are_packed_and_described_as_json(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "images")
    called = call("data", "pack", "images", "out", "--json")
    assert called.out.count("\n") == 1
    assert called.json().pop("bytes") > 0
    assert called.json() | {"bytes": 0} == {
        "data": "images",
        "out": "out",
        "images": {"train": 12, "val": 9},
        "files": 2,
        "left_out": [],
        "bytes": 0,
    }
    again = call("data", "pack", "images", "out")
    assert "packed   images: 12 train images and 9 val images" in again.out


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ("images", "images"), "images is in images, which is to be packed"),
        (2, ("images", "images/below/it"), "is in images, which is to be packed"),
        (1, ("images", "full/file/out"), "full/file/out: Not a directory"),
        (2, ("images",), "required"),
    ],
)
def test_a_folder_that_cannot_be_written(fails, images, code, arguments, message):
    (images.parent / "full").mkdir()
    (images.parent / "full/file").touch()
    assert message in fails(code, "data", "pack", *arguments)
    assert not (images.parent / "out").exists()


def test_an_interruption_is_one_line_and_the_same_command_continues(call, images, tmp_path):
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
    written = {file.name: file.stat().st_ino for file in tmp_path.glob("out/all/part*")}
    assert len(written) == 12
    (images / "cat/slow.png").unlink()
    (images / "cat/slow.png").write_bytes((images / "cat/0.png").read_bytes())
    assert call(*arguments).code == 0
    after = {file.name: file.stat().st_ino for file in tmp_path.glob("out/all/*.arrayrecord")}
    assert written.items() < after.items()
    assert len(after) == 13
    assert not list(tmp_path.glob("out/**/.*.new"))


def finished(out):
    """How many files are recorded."""
    file = out / "packing.json"
    return len(json.loads(file.read_text())["parts"]["all"]) if file.exists() else 0


def test_show_is_decided_by_the_seed_and_the_augmentation(call, images):
    def shown(*options):
        arguments = ("--count", "3", "--versions", "1", "--image-size", "12", "16", *options)
        called = call("data", "show", "images", "--json", "--out", "s.png", *arguments)
        assert called.out.count("\n") == 1
        with Image.open("s.png") as image:
            return called.json()["images"], image.tobytes()

    names, first = shown()
    assert len(set(names)) == 3
    assert all(name.startswith("images/") for name in names)
    assert shown() == (names, first)
    assert shown("--seed", "1")[0] != names
    same_names, other = shown("--policy", "trivial", "--mixup-alpha", "1")
    assert same_names == names
    assert other != first


def test_show_takes_the_embedded_images_by_default(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = call("data", "show", "--count", "2", "--json")
    assert called.code == 0, called
    assert all(name.startswith("fashion-mnist ") for name in called.json()["images"])


def test_without_any_augmentation_training_sees_what_is_evaluated(call, images):
    called = call("data", "show", "images", "--versions", "1", "--crop", "none", "--no-flip")
    assert called.out.splitlines()[0] == (
        "data     9 training and 3 validation images, 3 classes (images)"
    )
    assert called.out.splitlines()[2] == "written  sheet.png"
    with Image.open("sheet.png") as image:
        sheet = np.asarray(image.convert("RGB"))[-2000:]
    # Images of 64 pixels are shown four times as large; between the two is a gap.
    trained = slice(-(24 + 6 + 256), -(24 + 6))
    evaluated = slice(trained.start - 6 - 26 - 256, trained.start - 6 - 26)
    np.testing.assert_array_equal(sheet[:, evaluated], sheet[:, trained])
    assert sheet[:, evaluated].std() > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images", "--out", "sheet.jpg"), "sheet.jpg; expected a name that ends in .png"),
        (("images", "--count", "0"), "count is 0; expected 1 to 100"),
        (("images", "--seed", "-1"), "seed is -1; expected an integer in [0, 2**32)"),
    ],
)
def test_wrong_options_draw_nothing(fails, images, arguments, message):
    assert message in fails(2, "data", "show", *arguments)
    assert not (images.parent / "sheet.png").exists()


def test_a_bad_image_that_is_drawn_is_named(fails, images):
    for number in range(4):
        truncated_jpeg(images / f"bee/{number}.png")
    assert "images/bee/" in fails(1, "data", "show", "images", "--count", "100")


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--help",), 0)])
def test_help(call, arguments, code):
    called = call("data", *arguments)
    assert called.code == code
    assert "\n  pack" in (text := called.err if code else called.out)
    assert "\n  show" in text
