"""Packed data sets: what was packed is read from any place in any order, and damage is told."""

import json

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottleneck_transformer_flax import errors
from bottleneck_transformer_flax.data.datasets import load_parts, load_splits
from bottleneck_transformer_flax.data.packing import pack
from bottleneck_transformer_flax.data.sources.array_record import (
    FORMAT,
    Record,
    decode_record,
    encode_record,
    open_packed,
    read_description,
)
from bottleneck_transformer_flax.errors import DataError
from data.image_files import write_images

COUNTS = {"ant": 5, "bee": 4, "cat": 2}


@pytest.fixture
def packed(tmp_path):
    """Two parts, the first in three files, and what they hold."""
    images, root = tmp_path / "images", tmp_path / "packed"
    contents = {part: write_images(images / part, COUNTS) for part in ("train", "val")}
    pack(load_parts(str(images)), root, shards=3, num_workers=0)
    return root, contents


@settings(max_examples=50, deadline=None)
@given(name=st.text(), label=st.integers(0, 2**31 - 1), image=st.binary(max_size=100))
def test_a_record_comes_back(name, label, image):
    record = Record(name, label, image)
    assert decode_record(encode_record(record)) == record
    assert msgpack.unpackb(encode_record(record)) == record._asdict()
    # Names of files may be any bytes.
    record = Record(f"{name}caf\udce9.png", label, image)
    assert b"caf\xe9.png" in encode_record(record)
    assert decode_record(encode_record(record)) == record


def error_of(root):
    with pytest.raises(DataError) as caught:
        load_splits(str(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_missing_or_do_not_fit(packed):
    root, _ = packed
    file, labels = root / "train/part-00001-of-00003.arrayrecord", root / "train/labels.npy"
    np.save(labels, np.zeros(10, np.int32))
    assert "labels.npy has 10 images and names.json 11, but the files have 11" in error_of(root)
    np.save(labels, np.full(11, 3, np.int32))
    assert "has labels from 3 to 3 but there are 3 classes" in error_of(root)
    labels.unlink()
    assert "train: no such file" in error_of(root)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert f"{file}: has {len(whole) - 1} bytes; expected {len(whole)}" in error_of(root)
    file.unlink()
    assert f"{file}: no such file or directory" in error_of(root)


def test_an_image_that_is_damaged_is_named_and_the_others_are_read(packed):
    root, contents = packed
    images = list(contents["train"].values())
    file = root / "train/part-00000-of-00003.arrayrecord"
    content = bytearray(file.read_bytes())
    content[content.index(images[1][20:40])] ^= 255
    file.write_bytes(content)
    source = open_packed(root)["train"]
    with pytest.raises(DataError, match=f"{file}: ant/01.jpeg cannot be read"):
        source.content(1)
    assert [source.content(index) for index in (0, 2, 10)] == [images[0], images[2], images[10]]
    file = root / "val/part-00001-of-00003.arrayrecord"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(DataError, match=rf"^{file}: ant/03.jpeg cannot be read: Corrupted"):
        open_packed(root)["val"].content(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        (json.dumps({"format": FORMAT}), "'version' is missing"),
        (json.dumps({"format": FORMAT, "version": 2}), "a later version of botnet wrote it"),
        # Of another project: no packed data set, then.
        ('{"format": "another"}', "no images found in class folders"),
        ("[]", "no images found in class folders"),
    ],
)
def test_a_description_that_is_damaged_later_or_of_another_project(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    assert message in error_of(tmp_path)
    with pytest.raises(DataError, match="cannot be read as the description of a packed data"):
        read_description(tmp_path / "dataset.json")


def test_without_the_library(packed, monkeypatch):
    root, _ = packed
    monkeypatch.setattr(errors, "find_spec", lambda _: None)
    assert "needs array_record; install it with pip install 'bott" in error_of(root)
