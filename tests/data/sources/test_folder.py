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
    make(tmp_path, ".git/d.png", "__MACOSX/cat/e.png", "cat/__MACOSX/f.png", "beside.png")
    source = list_classes(tmp_path)
    assert source.notes == (
        f"{tmp_path}: subfolders are not classes of their own; their images belong to 'cat'",
        f"{tmp_path}: ignored files that are not images: 2",
        f"{tmp_path}: images beside the class folders are not used: 'beside.png'",
    )
    assert source.class_names == ("Zebra", "cat", "dog")
    cats = ("cat/2019/may/a.JPG", "cat/b.Jpeg")
    assert source.names == ("Zebra/1.png", *cats, "dog/a.png", "dog/b.jpg")
    assert source.labels.tolist() == [0, 1, 1, 2, 2]


def test_images_that_cannot_be_decoded_are_counted_and_left_out(tmp_path):
    make(tmp_path, *images("cat", "dog"), "cat/a.CR2", "dog/b.cr2", "dog/c.jxl")
    source = list_classes(tmp_path)
    assert len(source) == 8
    told = "files that cannot be decoded here (2 .cr2, 1 .jxl); convert them to JPEG or PNG"
    assert source.notes == (f"{tmp_path}: left out {told}",)
    make(tmp_path, "eel/a.cr2")
    assert "no images for 'eel'; files that cannot be decoded here (3 .cr2, 1 .jxl)" in error_of(
        tmp_path
    )
    told = error_of(make(tmp_path / "raw", "a/a.nef", "b/b.txt"))
    assert (
        "no images found in class folders; left out a .nef file, which cannot be decoded here"
        in told
    )


def test_symbolic_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path / "elsewhere", "a.png", "deep/b.png")
    root = make(tmp_path / "data", *images("cat", count=1))
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    for number, above in enumerate(("..", "../..")):
        (root / "cat" / f"loop{number}").symlink_to(above)
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
        (
            ["a.png"],
            "no class folders; put each image into a folder named after its class",
        ),
        (["a/x.txt", "b/y.txt"], "one folder per class directly, or what botnet data pack wrote"),
        ([*images("dog", "test"), "empty/readme.txt"], "no images for 'empty'; add some"),
        (images("Train/a", "Val/a"), "has no train/, but 'Train', 'Val', which hold folders"),
        (images("training/a", "testing/a"), "names of parts of a data set"),
        (images("val/a", "test/a"), "names of parts of a data set"),
        (images("bus", "test/a"), "has no train/, but 'test', which hold"),
        (images("bus", "all/a"), "has no train/, but 'all', which hold"),
        (images("train/a", "val/a", "test"), "test: has images but no class folders"),
    ],
)
def test_a_folder_without_images_or_classes(tmp_path, names, message):
    assert message in error_of(make(tmp_path, *names))


def test_the_classes_of_train_rule_and_other_parts_may_lack_some(tmp_path):
    make(tmp_path / "train", *images("a", "b", "c", count=2))
    make(tmp_path / "val", "a/none.txt", *images("b", "c", count=1))
    make(tmp_path / "test", *images("c", count=3))
    parts = open_folder(tmp_path)
    assert {part: source.class_names for part, source in parts.items()} == dict.fromkeys(
        ("train", "val", "test"), ("a", "b", "c")
    )
    assert [source.labels.tolist() for source in parts.values()] == [
        [0, 0, 1, 1, 2, 2],
        [1, 2],
        [2, 2, 2],
    ]
    # Empty in train/ or not there at all: only test/ has it.
    make(tmp_path, "train/d/none.txt", "test/d/0.png", "test/e/0.png")
    assert f"{tmp_path}/test: has images of 'd', 'e', but train/ has none" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["bus", "train"], ("bus", "train")),
        (["train", "val"], ("train", "val")),
        (["all", "bus", "test", "valid"], ("all", "bus", "test", "valid")),
        # A class may hold folders too.
        (["bus", "train", "train/2019"], ("bus", "train")),
        (["all/bus", "all/car"], ("bus", "car")),
    ],
)
def test_a_class_may_be_called_like_a_part(tmp_path, names, classes):
    (source,) = open_folder(make(tmp_path, *images(*names))).values()
    assert source.class_names == classes


def test_images_and_folders_beside_the_classes_and_the_parts_are_noted(tmp_path):
    for part in ("train", "val"):
        make(tmp_path / part, *images("a", "b"), "stray.png")
    make(tmp_path, *images("more/a", "Test/a"))
    parts = open_folder(tmp_path)
    assert parts["train"].notes == (
        f"{tmp_path}: folders beside the parts are not used: 'Test', 'more'",
        f"{tmp_path}/train: images beside the class folders are not used: 'stray.png'",
    )
    assert parts["val"].notes == (
        f"{tmp_path}/val: images beside the class folders are not used: 'stray.png'",
    )


def test_a_class_name_that_is_no_text_is_told_before_anything_is_done(tmp_path):
    make(tmp_path, *images("cat"))
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system takes no such name")
    (Path(os.fsdecode(folder)) / "a.png").touch()
    assert r"caf\xe9' has a name that is not UTF-8; rename it" in error_of(tmp_path)
