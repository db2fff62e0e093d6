"""A data set by its name or folder: what is trained on, validated on and tested on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottleneck_transformer_flax.data.datasets import (
    comes_in_parts,
    digest_images,
    digest_splits,
    fingerprint,
    load_folder_all,
    load_splits,
    split_by_name,
)
from bottleneck_transformer_flax.data.sources.base import relabel, select
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.errors import ConfigError, DataError
from data.image_files import write_images

CLASSES = ("x", "y")


def make(root, *parts, count=10):
    for part in parts:
        write_images(root / part, dict.fromkeys(CLASSES, count))
    return str(root)


def names(source):
    return None if source is None else [source.describe(index) for index in range(len(source))]


def test_without_parts_a_validation_split_is_held_out(tmp_path):
    splits = load_splits(make(tmp_path, "."), validation_fraction=0.2, split_seed=3)
    assert splits.description == f"16 training and 4 validation images, 2 classes ({tmp_path})"
    assert splits.validation.origin == f"held out of {tmp_path.name}/"
    assert splits.validation.labels.tolist() == [0, 0, 1, 1]
    assert splits.test is None


def test_parts_are_taken_as_they_are(tmp_path):
    """With one image of each class, which could not be split."""
    splits = load_splits(make(tmp_path, "train", "val", "test", count=1), validation_fraction=0.5)
    for source, place in zip(splits[:3], ("train", "val", "test"), strict=True):
        assert names(source) == [f"{tmp_path}/{place}/{name}/00.png" for name in CLASSES]
    assert splits.description.startswith(
        "2 training (train/), 2 validation (val/) and 2 test (test/) images, 2 classes"
    )
    # With a validation part only, nothing is called test.
    shutil.rmtree(tmp_path / "test")
    splits = load_splits(str(tmp_path))
    assert (len(splits.train), len(splits.validation), splits.test) == (2, 2, None)


def test_classes_that_cannot_be_scored_are_noted(tmp_path):
    write_images(tmp_path / "train", {"x": 2, "y": 2, "z": 2})
    write_images(tmp_path / "val", {"x": 1, "y": 0})
    write_images(tmp_path / "test", {"x": 1, "y": 1, "z": 1})
    assert load_splits(str(tmp_path)).notes == (
        "validation (val/) has no images of 'y', 'z', and cannot score these classes",
    )


def test_with_test_only_validation_is_split_from_train_unless_the_fraction_is_zero(tmp_path):
    data = make(tmp_path, "train", "test")
    splits = load_splits(data, validation_fraction=0.3)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (14, 6, 20)
    assert all(name.startswith(f"{tmp_path}/train/") for name in names(splits.validation))
    assert splits.description.startswith(
        "14 training (train/), 6 validation (held out of train/) and 20 test (test/) images"
    )
    splits = load_splits(data, validation_fraction=0.0)
    assert (len(splits.train), splits.validation, len(splits.test)) == (20, None, 20)
    assert splits.description.startswith("20 training (train/) and 20 test (test/) images")


def test_a_data_set_in_parts_is_not_taken_for_a_folder_of_classes(tmp_path):
    write_images(tmp_path / "one", {"x": 3})
    assert len(load_folder_all(tmp_path / "one")) == 3
    data = make(tmp_path / "two", "train", "val")
    assert comes_in_parts(data)
    assert comes_in_parts("embedded")
    assert not comes_in_parts(str(tmp_path / "one"))
    with pytest.raises(DataError, match=r"comes in parts \(train, val\); expected only one"):
        load_folder_all(data)


@pytest.mark.parametrize("fraction", [1.0, -0.1, float("nan")])
def test_a_fraction_out_of_range(fraction):
    with pytest.raises(ConfigError, match=r"validation_fraction is .*; expected a number in \[0"):
        load_splits("embedded", validation_fraction=fraction)


def test_one_class_cannot_be_classified_and_one_image_not_split(tmp_path):
    write_images(tmp_path, {"a": 3})
    with pytest.raises(DataError, match=f"{tmp_path}: only one class, 'a'"):
        load_splits(str(tmp_path))
    write_images(tmp_path, {"c": 1})
    with pytest.raises(DataError, match=r"only one image for 'c'; .*--validation-fraction 0"):
        load_splits(str(tmp_path))
    assert load_splits(str(tmp_path), validation_fraction=0.0).validation is None


def source_of(counts):
    names = [f"c{label}/{i:02}.png" for label, count in enumerate(counts) for i in range(count)]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return FolderSource(Path(), tuple(names), labels, tuple(f"c{c}" for c in range(len(counts))))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40) | st.just(0), min_size=1, max_size=5).filter(any),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**40),
)
def test_a_split_is_a_stratified_partition(counts, fraction, seed):
    source = source_of(counts)
    train, validation = split_by_name(source, fraction, seed, origin="")
    assert sorted(train.names + validation.names) == sorted(source.names)
    for half in (train, validation):
        assert list(half.indices) == sorted(half.indices)
        assert half.names == tuple(source.names[index] for index in half.indices)
    for label, count in enumerate(counts):
        held_out = np.count_nonzero(validation.labels == label)
        assert np.count_nonzero(train.labels == label) == count - held_out
        assert abs(held_out - count * fraction) <= 1
        assert not count or 0 < held_out < count


def held_out(source, seed=0):
    return set(split_by_name(source, 0.2, seed, origin="")[1].names)


def test_a_split_depends_on_the_seed_and_the_names_of_a_class_alone():
    source = source_of([100])
    assert set(source.names[:20]) != held_out(source) != set(source.names[-20:])
    assert held_out(source, seed=1) != held_out(source)
    # Neither on the order nor on other classes.
    mixed = np.random.default_rng(0).permutation(100)
    shuffled = FolderSource(Path(), tuple(source.names[i] for i in mixed), source.labels, ("c0",))
    assert held_out(shuffled) == held_out(source)
    assert held_out(source) < held_out(source_of([100, 8]))


def test_the_same_images_are_held_out_wherever_a_folder_lies(tmp_path):
    """Fingerprints, which are of images and labels, tell it."""
    write_images(tmp_path / "a", {"ant": 20, "bee": 15})
    write_images(tmp_path / "b/c", {"bee": 15, "ant": 20})
    expected = fingerprint(load_splits(str(tmp_path / "a")))
    for others in ({"split_seed": 1}, {"validation_fraction": 0.0}):
        assert fingerprint(load_splits(str(tmp_path / "a"), **others)) != expected
    assert fingerprint(load_splits(str(tmp_path / "b/c"))) == expected


def test_images_are_known_by_class_and_name_in_any_order_and_as_a_part(tmp_path):
    write_images(tmp_path / "train", {"x": 3, "y": 2})
    write_images(tmp_path / "val", {"x": 1, "y": 2})
    splits = load_splits(str(tmp_path))
    known = digest_splits(splits)
    assert list(known) == ["train", "validation"]
    assert known["train"] != known["validation"]
    assert digest_images(load_folder_all(tmp_path / "val")) == known["validation"]
    backwards = select(splits.train, np.arange(len(splits.train))[::-1])
    assert digest_images(relabel(backwards, ("z", "y", "x"))) == known["train"]
    for place, other in (("x", "y"), ("x/00.png", "x/07.png")):
        (tmp_path / "train" / place).rename(tmp_path / "train" / f"{other}2")
        assert digest_images(load_folder_all(tmp_path / "train")) != known["train"]
        (tmp_path / "train" / f"{other}2").rename(tmp_path / "train" / place)
