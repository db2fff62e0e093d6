"""``botnet data``: what pack and show print and write, and how they refuse."""

import numpy as np
import pytest
from PIL import Image

from training.tiny import CLASSES, entries, truncated_jpeg, write_classes, write_data


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of classes called "images", in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_classes(tmp_path / "images", dict.fromkeys(CLASSES, 4))


def test_packing_says_what_it_did(call, images):
    truncated_jpeg(images / "bee/x.jpg")
    here = ("--num-workers", "0")
    pack = ("data", "pack", "images", "out", "--shards", "2", "--skip-bad-images", *here)
    described = call(*pack, "--json")
    size = sum(file.stat().st_size for file in (images.parent / "out").rglob("*.arrayrecord"))
    (reason,) = described.json()["left_out"]
    assert reason.startswith("images/bee/x.jpg: cannot be read as an image")
    assert described.out.count("\n") == 1
    assert described.json() == {
        "data": "images",
        "out": "out",
        "images": {"all": 12},
        "files": 2,
        "bytes": size,
        "left_out": [reason],
    }
    called = call(*pack)
    assert (called.code, called.err) == (0, "")
    assert called.out.splitlines() == [
        "packed   images: 12 images",
        "left out 1 that cannot be read:",
        f"  {reason}",
        f"written  out: 2 files, {size / 1e6:.1f} MB",
        "next: botnet train --data out",
    ]
    write_data(images.parent / "parts")
    packed = call("data", "pack", "parts", "parts-out", *here).out
    assert "packed   parts: 12 train images and 9 val images" in packed


@pytest.mark.parametrize("out", ["images", "images/below/it"])
def test_a_folder_is_not_packed_into_itself(fails, images, out):
    assert "is in images, which is being packed" in fails(2, "data", "pack", "images", out)
    assert entries(images) == sorted(CLASSES)


def test_show_is_decided_by_the_seed_and_the_augmentation(call, images):
    def shown(*options):
        arguments = ("--count", "3", "--versions", "1", "--image-size", "12", "16", *options)
        called = call("data", "show", "--json", "--out", "s.png", *arguments)
        assert called.out.count("\n") == 1
        with Image.open("s.png") as image:
            return called.json()["images"], image.tobytes()

    names, first = shown()
    assert len(set(names)) == 3
    # The embedded images, by default.
    assert all(name.startswith("fashion-mnist ") for name in names)
    assert shown() == (names, first)
    assert shown("--seed", "1")[0] != names
    same_names, other = shown("--policy", "trivial", "--mixup-alpha", "1")
    assert same_names == names
    assert other != first


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


def test_names_that_no_font_has_are_numbers_and_told(call, images):
    (images / "bee").rename(images / "\N{SIGNWRITING HAND-FIST INDEX}\nbee")
    called = call("data", "show", "images", "--count", "9", "--versions", "1")
    assert called.code == 0
    told = "note: no font has the names of #2 \N{SIGNWRITING HAND-FIST INDEX}\\nbee\n"
    assert called.err == told


def test_what_cannot_be_drawn_leaves_nothing_or_is_left_out(call, fails, images):
    for number in range(4):
        truncated_jpeg(images / f"bee/{number}.png")
    message = fails(1, "data", "show", "images", "--count", "100")
    assert "images/bee/" in message and "--skip-bad-images" in message
    assert entries(images.parent) == ["images"]
    show = ("data", "show", "images", "--skip-bad-images", "--versions", "1", "--json")
    called = call(*show, "--count", "6")
    assert len(called.json()["images"]) == 6
    called = call(*show, "--count", "100")
    # A quarter of each class is held out.
    assert len(called.json()["images"]) == 6
    assert called.err.startswith("3 images could not be read and were left out:\n  images/bee/")
    for name in ("ant", "cat"):
        for number in range(4):
            truncated_jpeg(images / f"{name}/{number}.png")
    called = call(*show)
    assert called.code == 1
    assert "none of the training images of images can be read" in called.err
