"""Packed data sets: what a plain writer of the documented format wrote is read, damage is told."""

import hashlib
import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.data.sources import base
from bottleneck_transformer_flax.data.sources.array_record import (
    FORMAT,
    Record,
    decode_record,
    encode_record,
    open_packed,
    read_description,
)
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.decoding import decode_image
from bottleneck_transformer_flax.errors import DataError
from data.image_files import image_bytes

CLASSES = ("ant", "bee", "cat")


def write_part(root, part, count, files, seed=0):
    """The documented format, written plainly. Returns the records and the files' description."""
    (root / part).mkdir(parents=True)
    records = [
        {"name": f"{CLASSES[i % 3]}/{i}.png", "label": i % 3, "image": image_bytes(seed + i)}
        for i in range(count)
    ]
    shards = []
    for number in range(files):
        mine = records[number * count // files : (number + 1) * count // files]
        file = f"{part}/part-{number:05}-of-{files:05}.arrayrecord"
        writer = ArrayRecordWriter(str(root / file), "group_size:1")
        for record in mine:
            writer.write(msgpack.packb(record))
        writer.close()
        content = (root / file).read_bytes()
        numbers = {"images": len(mine), "bytes": len(content), "left_out": {}}
        shards.append({"file": file, "sha256": hashlib.sha256(content).hexdigest()} | numbers)
    np.save(root / part / "labels.npy", np.array([r["label"] for r in records], np.int32))
    (root / part / "names.json").write_text(json.dumps([r["name"] for r in records]))
    return records, shards


def describe(root, parts):
    description = {
        "format": "bottleneck-transformer-flax packed images",
        "version": 1,
        "source": "0" * 64,
        "class_names": CLASSES,
        "parts": parts,
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.fixture
def packed(tmp_path):
    """Two parts, and their records."""
    train, train_shards = write_part(tmp_path, "train", 11, files=3)
    val, val_shards = write_part(tmp_path, "val", 4, files=1, seed=100)
    describe(tmp_path, {"train": train_shards, "val": val_shards})
    return tmp_path, {"train": train, "val": val}


def test_every_image_is_read_with_its_name_and_label_pickled_and_by_threads(packed):
    root, records = packed
    parts = open_packed(root)
    assert list(parts) == ["train", "val"]
    for part, source in parts.items():
        assert isinstance(source, ImageSource)
        assert (source.native_size, source.class_names) == (None, CLASSES)
        assert len(source) == len(records[part])
        assert source.labels.tolist() == [record["label"] for record in records[part]]
        assert source.names == tuple(record["name"] for record in records[part])
        for index in np.random.default_rng(0).permutation(len(source)).tolist():
            image = records[part][index]["image"]
            assert source.content(index) == image
            assert source.describe(index) == f"{root}/{part}/{source.names[index]}"
            assert source.open(index).size == (4 + (index + 100 * (part == "val")) % 3, 5)
            assert source.read(index).tobytes() == decode_image(io.BytesIO(image)).tobytes()
        copy = pickle.loads(pickle.dumps(source))
        with ThreadPoolExecutor(8) as pool:
            contents = list(pool.map(copy.content, [*range(len(source))] * 50))
        assert contents == [record["image"] for record in records[part]] * 50


@settings(max_examples=50, deadline=None)
@given(name=st.text(), label=st.integers(0, 2**31 - 1), image=st.binary(max_size=100))
def test_a_record_comes_back(name, label, image):
    record = Record(name, label, image)
    assert decode_record(encode_record(record)) == record
    assert msgpack.unpackb(encode_record(record)) == record._asdict()


def test_records_of_other_bytes():
    record = Record("caf\udce9.png", 0, b"")
    assert b"caf\xe9.png" in encode_record(record)
    assert decode_record(encode_record(record)) == record


def error_of(root):
    with pytest.raises(DataError) as caught:
        load_splits(str(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_missing_or_of_another_size(packed):
    root, _ = packed
    file = root / "train/part-00001-of-00003.arrayrecord"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert f"{file}: has {len(whole) - 1} bytes; expected {len(whole)}" in error_of(root)
    file.unlink()
    assert f"{file}: no such file or directory" in error_of(root)


def test_an_image_that_is_damaged_is_named_and_the_others_are_read(packed):
    root, records = packed
    file = root / "train/part-00000-of-00003.arrayrecord"
    content = bytearray(file.read_bytes())
    content[content.index(records["train"][1]["image"][20:40])] ^= 255
    file.write_bytes(content)
    source = open_packed(root)["train"]
    with pytest.raises(DataError, match=f"{file}: bee/1.png cannot be read"):
        source.content(1)
    assert source.content(0) == records["train"][0]["image"]
    assert source.content(2) == records["train"][2]["image"]
    file = root / "val/part-00000-of-00001.arrayrecord"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(DataError, match=rf"^{file}: ant/0.png cannot be read: Corrupted"):
        open_packed(root)["val"].content(0)


def test_an_index_that_does_not_fit(packed):
    root, _ = packed
    np.save(root / "train/labels.npy", np.zeros(10, np.int32))
    assert "labels.npy has 10 images and names.json 11, but the files have 11" in error_of(root)
    np.save(root / "train/labels.npy", np.full(11, 3, np.int32))
    assert "has labels from 3 to 3 but there are 3 classes" in error_of(root)
    (root / "train/labels.npy").unlink()
    assert "train: no such file" in error_of(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        (json.dumps({"format": FORMAT}), "'version' is missing"),
        (json.dumps({"format": FORMAT, "version": 2}), "a later version of botnet wrote it"),
    ],
)
def test_a_description_that_is_damaged_or_later(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    assert message in error_of(tmp_path)


def test_a_description_of_another_project_makes_it_no_packed_data_set(tmp_path):
    for text in ("[]", '{"format": "another"}', "{}"):
        (tmp_path / "dataset.json").write_text(text)
        assert "no images found in class folders" in error_of(tmp_path)
        with pytest.raises(DataError, match="cannot be read as the description of a packed data"):
            read_description(tmp_path / "dataset.json")


def test_without_the_library(packed, monkeypatch):
    root, _ = packed
    monkeypatch.setattr(base, "find_spec", lambda _: None)
    assert "needs array_record; install it with pip install 'bott" in error_of(root)
