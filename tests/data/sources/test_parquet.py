"""Parquet files in the hub's layout: what is written with pyarrow is read, and damage is named."""

import pyarrow
import pyarrow.parquet
import pytest

from bottleneck_transformer_flax import errors
from bottleneck_transformer_flax.data.datasets import load_folder_all, load_parts, load_splits
from bottleneck_transformer_flax.data.sources import parquet
from bottleneck_transformer_flax.data.sources.parquet import Columns
from bottleneck_transformer_flax.errors import ConfigError, DataError
from data.image_files import image_bytes, write_parquet

BYTES_AND_PATH = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def write(file, numbers, **options):
    """The images of these numbers; labels are the numbers modulo 3."""
    options = {"labels": [number % 3 for number in numbers]} | options
    write_parquet(file, map(image_bytes, numbers), **options)


def parts_of(folder, **columns):
    return load_parts(str(folder), in_order=True, columns=Columns(**columns))


@pytest.fixture
def hub(tmp_path):
    """As the hub has it: 17 training images in two files, 5 to validate on."""
    write(tmp_path / "data/train-00000-of-00002.parquet", range(10))
    write(tmp_path / "data/train-00001-of-00002.parquet", range(10, 17))
    write(tmp_path / "data/validation-00000-of-00001.parquet", range(100, 105))
    (tmp_path / "README.md").touch()
    return tmp_path


def test_in_order_every_row_group_is_read_once(hub, monkeypatch):
    source, groups = parts_of(hub)["train"], []
    read_row_group = pyarrow.parquet.ParquetFile.read_row_group

    def counting(self, group, columns):
        groups.append(group)
        assert columns == ["image.bytes"]
        return read_row_group(self, group, columns)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", counting)
    for index in range(17):
        source.content(index)
    assert groups == [0, 1, 2, 0, 1]


def test_in_random_order_they_are_refused(hub):
    for load in (load_splits, load_folder_all):
        with pytest.raises(DataError, match=f"run botnet data pack {hub} PACKED, and name"):
            load(str(hub))


@pytest.mark.parametrize(
    "names",
    [
        # Of older files, and of files in a folder for each part.
        ["train-00000-of-00002-5e9ad7b7b2a6ec8b", "train-00001-of-00002-3c61bb1d5a0c2f47", "test"],
        ["train/0000", "train/0001", "test/0000"],
        # From the root of a clone.
        ["default/train/0000", "default/train/0001", "default/test/0000"],
        ["plain/train-00000-of-00002", "plain/train-00001-of-00002", "plain/test-00000-of-00001"],
        ["data/train/train-00000-of-00002", "data/train/train-00001-of-00002", "data/test/test"],
    ],
)
def test_other_names_of_files(tmp_path, names):
    for folder in (".cache", "__MACOSX", "__MACOSX/train"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.parquet").touch()
    for name, numbers in zip(names, (range(10), range(10, 17), [20]), strict=True):
        write(tmp_path / f"{name}.parquet", numbers)
    parts = parts_of(tmp_path)
    assert {part: len(source) for part, source in parts.items()} == {"train": 17, "test": 1}
    assert parts["train"].content(12) == image_bytes(12)


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_columns_by_their_usual_names(tmp_path, image, label):
    write(tmp_path / "train.parquet", range(7), image=image, label=label)
    source = parts_of(tmp_path)["all"]
    assert (source.class_names, source.labels.tolist()) == (
        ("ant", "bee", "cat"),
        [0, 1, 2, 0, 1, 2, 0],
    )
    assert source.content(1) == image_bytes(1)


def test_bytes_alone_as_a_column_and_small_labels(tmp_path):
    images = pyarrow.array(list(map(image_bytes, range(6))), pyarrow.large_binary())
    table = pyarrow.table(
        {"the.image": images, "labels": pyarrow.array([0, 1] * 3, pyarrow.uint8())}
    )
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    source = parts_of(tmp_path, image="the.image")["all"]
    assert (source.content(3), source.labels.tolist()) == (image_bytes(3), [0, 1] * 3)


def test_classes_without_names_are_numbers_and_repeated_names_get_theirs(tmp_path):
    write(tmp_path / "train.parquet", range(6), names=None)
    # A part without labels is left out, and so is one that is for nothing known.
    write(tmp_path / "validation.parquet", range(6), names=None, labels=[-1] * 6)
    write(tmp_path / "extra.parquet", range(3), names=None, labels=[9, 9, 9])
    write(tmp_path / "test.parquet", range(3), names=None, labels=[4, 0, 0])
    parts = parts_of(tmp_path)
    assert list(parts) == ["train", "test"]
    assert parts["train"].class_names == ("0", "1", "2", "3", "4")
    told = "parts without labels or of another name are not used: 'extra', 'validation'"
    assert [source.notes for source in parts.values()] == [(f"{tmp_path}: {told}",), ()]
    names = parquet.distinct(["crane", "crane 2", "crane", "crane"])
    assert names == ("crane", "crane 2", "crane 2 2", "crane 3")


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
    ],
)
def test_names_as_labels(tmp_path, kind):
    def write_labels(part, labels):
        write(
            tmp_path / f"{part}.parquet",
            range(len(labels)),
            names=None,
            labels=pyarrow.array(labels, kind),
        )

    write_labels("train-00000-of-00002", ["dog", "cat", "cat"])
    write_labels("train-00001-of-00002", ["cat", "ant"])
    write_labels("validation", ["ant", "dog"])
    # A part without labels is left out.
    write_labels("test", [None, None])
    parts = parts_of(tmp_path)
    assert list(parts) == ["train", "val"]
    assert parts["train"].class_names == parts["val"].class_names == ("ant", "cat", "dog")
    assert parts["train"].labels.tolist() == [2, 1, 1, 1, 0]
    assert (parts["val"].labels.tolist(), parts["val"].labels.dtype) == ([0, 2], "int32")
    write_labels("test", ["dog", "eel"])
    assert "test has the classes eel, which train lacks" in error_of(tmp_path)
    write_labels("test", ["dog", None])
    assert "test.parquet: images without a label (null): 1 of 2; remove" in error_of(tmp_path)


def test_columns_that_are_named(tmp_path):
    names = {"image": "picture", "label": "kind"}
    write(tmp_path / "train.parquet", range(6), **names, labels=[True, False] * 3, names=None)
    source = parts_of(tmp_path, **names)["all"]
    assert (source.content(2), source.class_names) == (image_bytes(2), ("0", "1"))
    told = "has the columns picture, kind; expected one called image or img, or its name in"
    assert f"{told} --image-column" in error_of(tmp_path)
    assert "picture, kind; expected label" in error_of(tmp_path, image="picture", label="label")
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(ConfigError, match="has no Parquet files, and no others have columns"):
        parts_of(tmp_path, label="kind")


def error_of(root, **columns):
    with pytest.raises(DataError) as caught:
        parts_of(root, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_or_does_not_fit(hub, monkeypatch):
    write(hub / "more/train.parquet", range(3))
    write(hub / "deep/train/0000.parquet", range(3))
    told = error_of(hub)
    assert "has Parquet files in 'data', 'deep', 'more', which are data sets of their own" in told
    assert told.endswith(f"name one of them, such as {hub}/data")
    (hub / "more/train.parquet").unlink()
    (hub / "deep/train/0000.parquet").unlink()
    write(hub / "data/validation-00000-of-00001.parquet", range(5), names=("ant", "bee", "dog"))
    assert "the files have different class names" in error_of(hub)
    (hub / "data/train-00000-of-00002.parquet").unlink()
    told = "files of train are missing, or of several versions; found train-00001-of-00002.parquet;"
    assert told in error_of(hub)
    (hub / "data/train-00001-of-00002.parquet").unlink()
    write(hub / "data/extra.parquet", range(6), names=("ant", "bee", "dog"))
    assert "has the parts 'extra', 'validation'; expected train, and one of" in error_of(hub)
    monkeypatch.setattr(errors, "find_spec", lambda _: None)
    assert "needs pyarrow; install it with pip install 'bott" in error_of(hub)


def test_damage_is_named(hub):
    file = hub / "data/train-00001-of-00002.parquet"
    source, content = parts_of(hub)["train"], file.read_bytes()
    file.write_bytes(content[:4] + bytes(len(content) - 1000) + content[len(content) - 996 :])
    with pytest.raises(DataError, match=f"{file}: cannot be read as Parquet: "):
        source.content(10)
    file.write_bytes(content[: len(content) // 2])
    assert f"{file}: cannot be read as Parquet: " in error_of(hub)
    images = pyarrow.array([{"bytes": None, "path": "here.png"}] * 6, BYTES_AND_PATH)
    table = pyarrow.table({"image": images, "label": [0, 1] * 3})
    pyarrow.parquet.write_table(table, hub / "train.parquet", row_group_size=4)
    with pytest.raises(DataError, match=r"train.parquet/5: this row has no image"):
        parts_of(hub)["all"].content(5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b""], "label": [0]}, "columns picture, label; expected one called image or"),
        ({"image": [b""], "class": [0]}, "columns image, class; expected one called label or"),
        ({"image": ["a.png"], "label": [0]}, "image is string; expected bytes of image files"),
        ({"image": [{"path": "a"}], "label": [0]}, "image.bytes is None; expected bytes"),
        (
            {"image": [b""], "label": [0.5]},
            "column label is double; expected integers or cl",
        ),
        ({"image": [b""], "label": [-1]}, "no image has a label"),
        (
            {"image": [b"", b""], "label": [1, -2]},
            "train.parquet: has labels from -2 to 1; expected 0",
        ),
        (
            {"image": [b"", b""], "label": [1, None]},
            "train.parquet: images without a label (null or -1): 1 of 2; remove these rows",
        ),
    ],
)
def test_columns_that_cannot_be_used(tmp_path, columns, message):
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    assert message in error_of(tmp_path)
