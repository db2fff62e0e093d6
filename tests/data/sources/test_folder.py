"""Which images of a folder are taken, in which order, and the messages when they can't be."""

import os
import shutil
from pathlib import Path

import pytest

from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.data.sources.folder import list_classes, open_folder
from bottleneck_transformer_flax.errors import DataError
from data.image_files import colour_folder


def make(root: Path, *names: str) -> Path:
    """Empty files: opening a folder looks at names only."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def images(*classes: str, count: int = 4) -> list[str]:
    return [f"{name}/{number}.png" for name in classes for number in range(count)]


def test_classes_and_images_are_sorted_without_hidden_and_other_files(tmp_path):
    """Nested ones and those with upper-case suffixes are among them."""
    make(tmp_path, "dog/b.jpg", "dog/a.png", "Zebra/1.png", "cat/2019/may/a.JPG", "cat/b.Jpeg")
    make(tmp_path, "cat/notes.txt", "cat/.hidden.png", "cat/.cache/c.png", "cat/noSuffix")
    make(tmp_path, ".git/d.png", "beside.png")
    source = list_classes(tmp_path)
    assert source.class_names == ("Zebra", "cat", "dog")
    cats = ("cat/2019/may/a.JPG", "cat/b.Jpeg")
    assert source.names == ("Zebra/1.png", *cats, "dog/a.png", "dog/b.jpg")
    assert source.labels.tolist() == [0, 1, 1, 2, 2]
    assert source.passed_over == 2


def test_images_are_those_of_the_files(tmp_path):
    source = list_classes(colour_folder(tmp_path, "x", "y", count=2))
    assert isinstance(source, ImageSource)
    assert (len(source), source.native_size) == (4, None)
    for index, colour in enumerate([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]):
        assert source.open(index).size == (3, 4)
        assert source.read(index).getpixel((3, 2)) == colour
        assert source.describe(index) == f"{tmp_path}/{source.names[index]}"
        assert source.content(index) == Path(source.describe(index)).read_bytes()


def test_symbolic_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path / "elsewhere", "a.png", "deep/b.png")
    root = make(tmp_path / "data", *images("cat", count=1))
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "elsewhere")
    assert list_classes(root).names == ("cat/0.png", "dog/a.png", "dog/deep/b.png")


@pytest.mark.parametrize("validation", ["val", "validation", "valid", None])
@pytest.mark.parametrize("test", ["test", None])
def test_parts_are_taken_by_their_names(tmp_path, validation, test):
    folders = {"train": "train", "val": validation, "test": test}
    folders = {part: folder for part, folder in folders.items() if folder}
    for count, folder in enumerate(folders.values(), start=1):
        make(tmp_path / folder, *images("a", "b", count=count))
    if len(folders) == 1:
        with pytest.raises(DataError, match=r"has train/ but no val/ or test/ .* validation/"):
            open_folder(tmp_path)
        return
    parts = open_folder(tmp_path)
    assert {part: source.root.name for part, source in parts.items()} == folders
    assert [len(source) for source in parts.values()] == [2, 4, 6][: len(folders)]


def error_of(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_folder(root)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    return message


def test_a_folder_that_is_missing_or_a_file(tmp_path):
    assert "no such folder" in error_of(tmp_path / "nowhere")
    assert "is a file" in error_of(make(tmp_path, "a.png") / "a.png")


@pytest.mark.parametrize("names", [[], ["a.png"], ["a/x.txt", "b/y.txt"]])
def test_no_images(tmp_path, names):
    message = error_of(make(tmp_path, *names))
    for expected in ("no images found", ".jpg", "one folder per class", "botnet data pack"):
        assert expected in message


def test_an_empty_class_and_a_class_called_like_a_part(tmp_path):
    make(tmp_path, *images("dog", "test"))
    assert open_folder(tmp_path)["all"].class_names == ("dog", "test")
    make(tmp_path, "empty/readme.txt")
    assert "no images for 'empty'; add some" in error_of(tmp_path)


@pytest.mark.parametrize("part", ["val", "test"])
def test_different_classes_are_listed_both_ways(tmp_path, part):
    for folder in ("train", "val", "test"):
        make(tmp_path / folder, *images("a", "b", "c"))
    shutil.rmtree(tmp_path / part / "a")
    make(tmp_path / part, *images("d", "e"))
    message = error_of(tmp_path)
    assert "only in train/: 'a'" in message
    assert f"only in {part}/: 'd', 'e'" in message


@pytest.mark.parametrize("parts", [("Train", "Val"), ("training", "testing"), ("val", "test")])
def test_the_parts_of_a_data_set_are_not_taken_for_classes(tmp_path, parts):
    make(tmp_path, *(f"{part}/{name}" for part in parts for name in images("cat", "dog")))
    assert "call the parts train/, val/ and test/" in error_of(tmp_path)


def test_a_class_name_that_is_no_text_is_told_before_anything_is_done(tmp_path):
    make(tmp_path, *images("cat"))
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system takes no such name")
    (Path(os.fsdecode(folder)) / "a.png").touch()
    assert r"caf\xe9' has a name that is not UTF-8; rename it" in error_of(tmp_path)
