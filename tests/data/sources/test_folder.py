"""Which images of a folder are taken, in which order, and the messages when they can't be."""

import os
from pathlib import Path

import pytest

from bottleneck_transformer_flax.data.sources.folder import list_classes, open_folder
from bottleneck_transformer_flax.errors import DataError


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
    if validation:
        other = "val" if validation == "valid" else "valid"
        make(tmp_path / other, *images("a", "b"))
        with pytest.raises(DataError, match="expected one validation part: remove the others"):
            open_folder(tmp_path)


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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no images found in class folders; looked for .jpg"),
        (["a.png"], "one folder per class directly, or what botnet data pack wrote"),
        (["a/x.txt", "b/y.txt"], "no images found"),
        ([*images("dog", "test"), "empty/readme.txt"], "no images for 'empty'; add some"),
        (images("Train", "Val"), "names of parts of a data set"),
        (images("training", "testing"), "names of parts of a data set"),
        (images("val", "test"), "names of parts of a data set"),
    ],
)
def test_a_folder_without_images_or_classes(tmp_path, names, message):
    assert message in error_of(make(tmp_path, *names))


def test_different_classes_are_listed_both_ways(tmp_path):
    for part, classes in (("train", "abc"), ("val", "abc"), ("test", "bcde")):
        make(tmp_path / part, *images(*classes))
    assert "only in train/: 'a'; only in test/: 'd', 'e'" in error_of(tmp_path)


def test_a_class_name_that_is_no_text_is_told_before_anything_is_done(tmp_path):
    make(tmp_path, *images("cat"))
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system takes no such name")
    (Path(os.fsdecode(folder)) / "a.png").touch()
    assert r"caf\xe9' has a name that is not UTF-8; rename it" in error_of(tmp_path)
