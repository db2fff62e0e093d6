"""Data sets that TensorFlow Datasets prepared, read through a stand-in for it."""

import json
import pickle
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.data.formats import has_two_parts, open_stored
from bottleneck_transformer_flax.data.sources import stored
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import DataError
from data.image_files import image_bytes


class Image:
    pass


class ClassLabel:
    def __init__(self, *names):
        self.names = list(names)


class SkipDecoding:
    pass


class Builder:
    """What ``builder_from_directory`` gives, over the parts in the test's ``state``."""

    def __init__(self, state, folder):
        self.state = state
        sizes = {name: SimpleNamespace(num_examples=len(p)) for name, p in state["parts"].items()}
        self.info = SimpleNamespace(features=state["features"], splits=sizes)
        state["opened"].append(folder)

    def as_data_source(self, split, decoders):
        (key,) = decoders
        assert isinstance(decoders[key], SkipDecoding)
        assert self.state["parts"][split], "there is no file to open"
        return self.state["parts"][split]


class Damaged(list):
    def __getitem__(self, position):
        raise RuntimeError("chunk data hash mismatch\nand more")


def examples(numbers, image="image", label="label"):
    return [{image: image_bytes(n), label: np.int64(n % 2), "id": b"x"} for n in numbers]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A folder, and what the stand-in says is in it."""
    state = {
        "features": {"id": object(), "image": Image(), "label": ClassLabel("cat", "dog")},
        "parts": {"train": examples(range(9)), "test": examples(range(100, 104))},
        "opened": [],
    }
    module = ModuleType("tensorflow_datasets")
    module.features = SimpleNamespace(Image=Image, ClassLabel=ClassLabel)
    module.decode = SimpleNamespace(SkipDecoding=SkipDecoding)
    module.builder_from_directory = lambda folder: Builder(state, folder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    monkeypatch.setattr(stored, "find_spec", lambda name: sys.modules.get(name))
    write_info(tmp_path, ["train", "test"])
    (tmp_path / "features.json").write_text("{}")
    return tmp_path, state


def write_info(folder, parts, **changes):
    info = {"fileFormat": "array_record", "splits": [{"name": part} for part in parts]}
    (folder / "dataset_info.json").write_text(json.dumps(info | changes))


def error_of(root):
    with pytest.raises(DataError) as caught:
        load_splits(str(root))
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    return str(caught.value)


def test_every_image_is_read_with_its_label(prepared):
    folder, state = prepared
    splits = load_splits(str(folder))
    assert splits.description == f"9 training and 4 test images, 2 classes ({folder})"
    assert set(state["opened"]) == {str(folder)}
    for source, first in ((splits.train, 0), (splits.validation, 100)):
        assert isinstance(source, ImageSource)
        assert source.class_names == ("cat", "dog")
        for index in range(len(source)):
            assert source.content(index) == image_bytes(first + index)
            assert source.labels[index] == (first + index) % 2
            assert source.read(index).size == (5, 4 + (first + index) % 3)
    assert splits.train.describe(3) == f"{folder}/train/3"
    assert has_two_parts(folder)


def test_a_source_that_was_read_from_is_pickled(prepared):
    source = load_splits(str(prepared[0])).train
    copy = pickle.loads(pickle.dumps(source))
    assert copy.content(4) == image_bytes(4)


def test_features_of_other_names(prepared):
    folder, state = prepared
    state["features"] = {"pixels": Image(), "object": ClassLabel("cat", "dog"), "label": object()}
    state["parts"] = {
        name: examples(range(4), "pixels", "object") for name in ("train", "validation")
    }
    assert load_splits(str(folder)).validation.content(2) == image_bytes(2)
    state["features"] |= {"image": Image()}
    state["parts"] = {"train": examples(range(4), "image", "object")}
    assert len(load_splits(str(folder)).validation) == 2


def test_one_part_is_split_and_one_without_labels_or_images_is_left_out(prepared):
    folder, state = prepared
    unlabelled = [example | {"label": -1} for example in examples(range(4))]
    state["parts"] = {"train": examples(range(20)), "test": unlabelled, "extra": []}
    assert list(open_stored(folder)) == ["train"]
    splits = load_splits(str(folder), validation_fraction=0.2)
    assert (len(splits.train), len(splits.validation)) == (16, 4)
    write_info(folder, ["train"])
    assert not has_two_parts(folder)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"label": ClassLabel("a", "b")},
            "has the features label; expected one Image called image, or",
        ),
        (
            {"a": Image(), "b": Image(), "label": ClassLabel("a")},
            "features a, b, label; expected one",
        ),
        ({"image": Image()}, "expected one ClassLabel called label, or only one at all"),
    ],
)
def test_features_that_cannot_be_used(prepared, features, message):
    folder, state = prepared
    state["features"] = features
    assert message in error_of(folder)


def test_labels_that_cannot_be(prepared):
    folder, state = prepared
    state["parts"]["test"] = [{"image": b"", "label": 2}]
    assert "test has labels from 2 to 2; expected 0 to 1" in error_of(folder)
    state["parts"] = {"train": [{"image": b"", "label": -1}]}
    assert "no image has a label" in error_of(folder)


@pytest.mark.parametrize("written", [{"fileFormat": "tfrecord"}, {"fileFormat": "riegeli"}])
def test_other_formats_say_how_to_get_the_right_one(prepared, written):
    folder, _ = prepared
    write_info(folder, ["train"], **written)
    message = error_of(folder)
    assert f"is prepared as {written['fileFormat']}, which can only be read in order" in message
    assert "tfds build --file_format=array_record" in message
    assert "tfds convert_format --out_file_format=array_record" in message


def test_a_format_that_is_not_written_down_is_the_oldest(prepared):
    folder, _ = prepared
    (folder / "dataset_info.json").write_text("{}")
    assert "is prepared as tfrecord" in error_of(folder)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_description(prepared, text):
    folder, _ = prepared
    (folder / "dataset_info.json").write_text(text)
    assert "dataset_info.json: " in error_of(folder)


def test_records_that_are_damaged(prepared):
    folder, state = prepared
    state["parts"]["train"] = Damaged(state["parts"]["train"])
    assert error_of(folder).endswith("train image 0: chunk data hash mismatch")


def test_what_the_library_cannot_open(prepared, monkeypatch):
    def fail(folder):
        raise RuntimeError("no such features\nin detail")

    folder, _ = prepared
    monkeypatch.setattr(sys.modules["tensorflow_datasets"], "builder_from_directory", fail)
    assert error_of(folder).endswith(": no such features")


def test_without_the_library(prepared, monkeypatch):
    folder, _ = prepared
    monkeypatch.delitem(sys.modules, "tensorflow_datasets")
    assert "needs tensorflow_datasets; install it with pip install tensorflow-datasets" in error_of(
        folder
    )
