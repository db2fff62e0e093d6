"""Which images of a folder are taken, how they are split, and what is said when they can't be."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottleneck_transformer_flax.data.sources.folder import (
    Listing,
    list_classes,
    list_splits,
    split_listing,
)
from bottleneck_transformer_flax.errors import ConfigError, DataError


def make(root: Path, *names: str) -> Path:
    """Empty files: listing looks at names only."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def images(*classes: str, count: int = 4) -> list[str]:
    return [f"{name}/{number}.png" for name in classes for number in range(count)]


def test_classes_and_images_are_sorted(tmp_path):
    make(tmp_path, "dog/b.jpg", "dog/a.png", "cat/z.png", "Zebra/1.png")
    listing = list_classes(tmp_path)
    assert listing.root == tmp_path
    assert list(listing.names.items()) == [
        ("Zebra", ("Zebra/1.png",)),
        ("cat", ("cat/z.png",)),
        ("dog", ("dog/a.png", "dog/b.jpg")),
    ]


def test_nested_upper_case_hidden_and_other_files(tmp_path):
    make(tmp_path, "cat/2019/may/a.JPG", "cat/b.Jpeg", "cat/notes.txt", "cat/.hidden.png")
    make(tmp_path, "cat/.cache/c.png", ".git/d.png", "beside.png", "cat/noSuffix")
    assert list_classes(tmp_path).names == {"cat": ("cat/2019/may/a.JPG", "cat/b.Jpeg")}


def test_symbolic_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path / "elsewhere", "a.png", "deep/b.png")
    root = make(tmp_path / "data", *images("cat", count=1))
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "elsewhere")
    assert list_classes(root).names["dog"] == ("dog/a.png", "dog/deep/b.png")


@pytest.mark.parametrize("folder", ["val", "validation", "valid", "test"])
def test_ready_made_split(tmp_path, folder):
    make(tmp_path / "train", *images("a", "b"))
    make(tmp_path / folder, *images("a", "b", count=2))
    train, test = list_splits(tmp_path, 0.1, 0)
    assert (train.root, test.root) == (tmp_path / "train", tmp_path / folder)
    assert {name: len(found) for name, found in train.names.items()} == {"a": 4, "b": 4}
    assert {name: len(found) for name, found in test.names.items()} == {"a": 2, "b": 2}


def test_val_is_preferred_to_test(tmp_path):
    for folder in ("train", "val", "test"):
        make(tmp_path / folder, *images("a", "b"))
    assert list_splits(tmp_path, 0.1, 0)[1].root == tmp_path / "val"


def test_split_does_not_depend_on_place_or_listing_order(tmp_path, monkeypatch):
    first = make(tmp_path / "first", *images("a", "b", count=30))
    second = make(tmp_path / "other" / "second", *reversed(images("a", "b", count=30)))
    expected = [listing.names for listing in list_splits(first, 0.2, 7)]
    scandir = os.scandir

    class Reversed:
        def __init__(self, folder):
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert [listing.names for listing in list_splits(second, 0.2, 7)] == expected
    assert [listing.names for listing in list_splits(second, 0.2, 8)] != expected


def test_a_new_class_leaves_the_others_split(tmp_path):
    make(tmp_path, *images("a", "b", count=20))
    before = list_splits(tmp_path, 0.2, 0)[1].names
    make(tmp_path, *images("aa", count=20))
    after = list_splits(tmp_path, 0.2, 0)[1].names
    assert {name: after[name] for name in before} == before


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**40),
)
def test_split_is_a_stratified_partition(counts, fraction, seed):
    names = {f"c{c}": tuple(f"c{c}/{i}.png" for i in range(n)) for c, n in enumerate(counts)}
    train, test = split_listing(Listing(Path("root"), names), fraction, seed)
    assert list(train.names) == list(test.names) == list(names)
    for name, all_images in names.items():
        ours, theirs = train.names[name], test.names[name]
        assert ours
        assert theirs
        assert sorted(ours + theirs) == sorted(all_images)
        assert ours == tuple(sorted(ours, key=all_images.index))
        assert abs(len(theirs) - len(all_images) * fraction) <= 1


def test_split_is_not_by_name():
    names = {"c": tuple(f"c/{i:03}.png" for i in range(100))}
    _, test = split_listing(Listing(Path("root"), names), 0.2, 0)
    assert test.names["c"] not in (names["c"][:20], names["c"][-20:])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range(tmp_path, fraction):
    make(tmp_path, *images("a", "b"))
    with pytest.raises(ConfigError, match="validation_fraction"):
        list_splits(tmp_path, fraction, 0)


def error_of(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        list_splits(root, 0.1, 0)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    return message


def test_missing_folder(tmp_path):
    assert "no such folder" in error_of(tmp_path / "nowhere")


def test_path_of_a_file(tmp_path):
    assert "is a file" in error_of(make(tmp_path, "a.png") / "a.png")


@pytest.mark.parametrize("names", [[], ["a.png"], ["a/x.txt", "b/y.txt"]])
def test_no_images(tmp_path, names):
    message = error_of(make(tmp_path, *names))
    assert "no images" in message
    assert ".jpg" in message
    assert "one folder per class" in message


def test_one_class(tmp_path):
    assert "only one class, 'cat'" in error_of(make(tmp_path, *images("cat")))
    shutil.rmtree(tmp_path / "cat")
    make(tmp_path / "train", *images("cat"))
    make(tmp_path / "val", *images("cat"))
    with pytest.raises(DataError, match="only one class, 'cat'"):
        list_splits(tmp_path, 0.1, 0)


def test_empty_class(tmp_path):
    make(tmp_path, *images("a", "b"), "empty/readme.txt")
    message = error_of(tmp_path)
    assert "no images for 'empty'" in message
    assert "'a'" not in message


def test_class_with_a_single_image(tmp_path):
    make(tmp_path, *images("a", "b"), "c/1.png")
    message = error_of(tmp_path)
    assert "only one image for 'c'" in message
    assert "at least two" in message


def test_single_images_are_enough_in_a_ready_made_split(tmp_path):
    for folder in ("train", "val"):
        make(tmp_path / folder, *images("a", "b", count=1))
    assert [len(listing.names) for listing in list_splits(tmp_path, 0.1, 0)] == [2, 2]


def test_different_classes_are_listed_both_ways(tmp_path):
    make(tmp_path / "train", *images("a", "b", "c"))
    make(tmp_path / "val", *images("b", "c", "d", "e"))
    message = error_of(tmp_path)
    assert "only in train/: 'a'" in message
    assert "only in val/: 'd', 'e'" in message


def test_train_without_val(tmp_path):
    make(tmp_path / "train", *images("a", "b"))
    message = error_of(tmp_path)
    assert "has train/ but no val/ or test/" in message
    assert "validation/" in message


def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path):
    make(tmp_path, *images("cat", "dog", count=2))
    (tmp_path / "cat/lost.png").symlink_to(tmp_path / "nowhere.png")
    assert "cat/lost.png" in list_classes(tmp_path).names["cat"]


def test_files_that_are_no_images_are_counted(tmp_path):
    make(tmp_path, *images("cat", "dog"), "cat/a.heic7", "dog/notes.txt", "dog/.hidden", "top.txt")
    assert list_classes(tmp_path).passed_over == 2
    train, test = list_splits(tmp_path, 0.25, 0)
    assert train.passed_over + test.passed_over == 2


@pytest.mark.parametrize("parts", [("Train", "Val"), ("training", "testing"), ("val", "test")])
def test_the_parts_of_a_data_set_are_not_taken_for_classes(tmp_path, parts):
    make(tmp_path, *(f"{part}/{name}" for part in parts for name in images("cat", "dog")))
    with pytest.raises(DataError, match=f"'{min(parts)}'.*call the parts train/ and val/"):
        list_splits(tmp_path, 0.1, 0)


def test_a_class_may_be_called_like_a_part(tmp_path):
    make(tmp_path, *images("test", "dog"))
    assert list(list_classes(tmp_path).names) == ["dog", "test"]


def test_a_class_name_that_is_no_text_is_told_before_anything_is_done(tmp_path):
    make(tmp_path, *images("cat"))
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system takes no such name")
    (Path(os.fsdecode(folder)) / "a.png").touch()
    with pytest.raises(DataError, match=r"caf\\xe9.*not UTF-8; rename it"):
        list_classes(tmp_path)
