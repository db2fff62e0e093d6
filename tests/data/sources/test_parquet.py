"""Parquet files in the hub's layout: what is written with pyarrow is read, whatever the order."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bottleneck_transformer_flax.data.datasets import fingerprint, load_folder_all, load_splits
from bottleneck_transformer_flax.data.formats import has_two_parts, open_stored
from bottleneck_transformer_flax.data.sources import parquet, stored
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import DataError
from data.image_files import image_bytes

CLASSES = ("ant", "bee", "cat")
BYTES_AND_PATH = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def write(file, numbers, *, image="image", label="label", labels=None, names=CLASSES, **options):
    """One file with the images of these numbers, in row groups of four."""
    labels = [number % 3 for number in numbers] if labels is None else labels
    images = [{"bytes": image_bytes(number), "path": f"{number}.png"} for number in numbers]
    table = pyarrow.table(
        {
            "more": list(map(str, numbers)),
            image: pyarrow.array(images, BYTES_AND_PATH),
            label: pyarrow.array(labels, options.get("label_type", pyarrow.int64())),
        }
    )
    if names is not None:
        features = {label: {"names": names, "_type": "ClassLabel"}}
        record = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": record})
    file.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, file, row_group_size=4)


@pytest.fixture
def hub(tmp_path):
    """As the hub has it: 17 training images in two files, 5 to test on."""
    write(tmp_path / "data/train-00000-of-00002.parquet", range(10))
    write(tmp_path / "data/train-00001-of-00002.parquet", range(10, 17))
    write(tmp_path / "data/validation-00000-of-00001.parquet", range(100, 105))
    (tmp_path / "README.md").touch()
    return tmp_path


def test_every_image_is_read_with_its_label(hub):
    splits = load_splits(str(hub))
    assert splits.description == f"17 training and 5 test images, 3 classes ({hub})"
    for source, first in ((splits.train, 0), (splits.validation, 100)):
        assert isinstance(source, ImageSource)
        assert source.class_names == CLASSES
        assert source.native_size is None
        for index in np.random.default_rng(0).permutation(len(source)).tolist():
            assert source.content(index) == image_bytes(first + index)
            assert source.labels[index] == (first + index) % 3
            assert source.read(index).size == (5, 4 + (first + index) % 3)
    assert splits.train.describe(12) == f"{hub}/data/train-00001-of-00002.parquet/2"


def test_a_source_that_was_read_from_is_pickled_and_read_by_threads(hub, monkeypatch):
    source = load_splits(str(hub)).train
    source.content(0)
    copy = pickle.loads(pickle.dumps(source))
    monkeypatch.setattr(parquet, "_KEPT_BYTES", 1)
    indices = np.random.default_rng(0).integers(17, size=200).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy.content, indices)) == list(map(image_bytes, indices))


def test_names_that_older_files_have(tmp_path):
    write(tmp_path / "train-00000-of-00002-5e9ad7b7b2a6ec8b.parquet", range(10))
    write(tmp_path / "train-00001-of-00002-3c61bb1d5a0c2f47.parquet", range(10, 17))
    write(tmp_path / "test-00000-of-00001-0123456789abcdef.parquet", range(100, 105))
    splits = load_splits(str(tmp_path))
    assert (len(splits.train), len(splits.validation)) == (17, 5)
    assert splits.train.content(12) == image_bytes(12)


def test_parts_in_folders_of_their_own(tmp_path):
    write(tmp_path / "train/0000.parquet", range(10))
    write(tmp_path / "train/0001.parquet", range(10, 17))
    write(tmp_path / "test/0000.parquet", range(100, 105))
    assert has_two_parts(tmp_path)
    splits = load_splits(str(tmp_path))
    assert (len(splits.train), len(splits.validation)) == (17, 5)
    assert splits.train.content(12) == image_bytes(12)
    assert splits.validation.content(4) == image_bytes(104)
    assert len(load_folder_all(tmp_path / "test")) == 5


def test_row_groups_are_read_once_and_only_so_many_bytes_kept(hub, monkeypatch):
    source = load_splits(str(hub)).train
    groups = []
    read_row_group = pyarrow.parquet.ParquetFile.read_row_group

    def counting(self, group, columns):
        groups.append(group)
        assert columns == ["image.bytes"]
        return read_row_group(self, group, columns)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", counting)
    for index in [0, 3, 9, 1, 16, 2]:
        source.content(index)
    assert groups == [0, 2, 1]
    # The one used last is let go of last.
    assert list(source.reader._kept) == [2, 4, 0]
    monkeypatch.setattr(parquet, "_KEPT_BYTES", 1)
    for index in [4, 5, 0]:
        source.content(index)
        assert list(source.reader._kept) == [index // 4]
    assert groups[3:] == [1, 0]


@pytest.mark.parametrize("label", ["label", "labels", "fine_label"])
@pytest.mark.parametrize("image", ["image", "img"])
def test_columns_by_their_usual_names(tmp_path, image, label):
    write(tmp_path / "train.parquet", range(7), image=image, label=label)
    write(tmp_path / "test.parquet", range(7, 9), image=image, label=label)
    splits = load_splits(str(tmp_path))
    assert splits.train.class_names == CLASSES
    assert splits.validation.labels.tolist() == [1, 2]
    assert splits.validation.content(1) == image_bytes(8)


def test_bytes_alone_as_a_column_and_small_labels(tmp_path):
    images = pyarrow.array(list(map(image_bytes, range(6))), pyarrow.large_binary())
    labels = pyarrow.array([0, 1] * 3, pyarrow.uint8())
    for part in ("train", "val"):
        table = pyarrow.table({"image": images, "label": labels})
        pyarrow.parquet.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet")
    source = load_splits(str(tmp_path)).train
    assert source.content(3) == image_bytes(3)
    assert source.labels.tolist() == [0, 1] * 3


def test_classes_without_names_are_numbers(tmp_path):
    write(tmp_path / "train.parquet", range(6), names=None)
    write(tmp_path / "test.parquet", range(3), names=None, labels=[4, 0, 0])
    assert load_splits(str(tmp_path)).train.class_names == ("0", "1", "2", "3", "4")


def test_a_part_without_labels_is_left_out_and_validation_is_preferred(hub):
    write(hub / "data/test-00000-of-00001.parquet", range(6), labels=[-1] * 6)
    assert list(open_stored(hub)) == ["train", "validation"]
    write(hub / "data/test-00000-of-00001.parquet", range(6))
    assert list(open_stored(hub)) == ["test", "train", "validation"]
    assert len(load_splits(str(hub)).validation) == 5
    assert has_two_parts(hub)


def test_one_part_is_split_by_the_rows(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", range(30))
    assert not has_two_parts(tmp_path)
    assert len(load_folder_all(tmp_path)) == 30
    splits = load_splits(str(tmp_path), validation_fraction=0.2)
    assert (len(splits.train), len(splits.validation)) == (24, 6)
    for source in (splits.train, splits.validation):
        for index, name in enumerate(source.names):
            assert source.content(index) == image_bytes(int(name.split("/")[1]))
    assert fingerprint(splits) == fingerprint(load_splits(str(tmp_path), validation_fraction=0.2))


def error_of(root):
    with pytest.raises(DataError) as caught:
        load_splits(str(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_missing(hub):
    (hub / "data/train-00000-of-00002.parquet").unlink()
    assert "has 1 files of train, the last of them train-00001-of-00002.parquet" in error_of(hub)


def test_a_part_is_missing(hub):
    (hub / "data/train-00000-of-00002.parquet").unlink()
    (hub / "data/train-00001-of-00002.parquet").rename(hub / "data/extra.parquet")
    assert "has the parts 'extra', 'validation'; expected train and one of" in error_of(hub)


def test_several_folders_of_files(hub):
    write(hub / "more/train.parquet", range(3))
    assert "has Parquet files in 'data', 'more'; name one of these folders" in error_of(hub)


@pytest.mark.parametrize("damage", ["short", "zeros"])
def test_a_damaged_file_is_named(hub, damage):
    file = hub / "data/train-00001-of-00002.parquet"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: size // 2] if damage == "short" else bytes(size))
    assert f"{file}: cannot be read as Parquet: " in error_of(hub)


def test_a_file_that_is_damaged_where_the_images_are(hub):
    file = hub / "data/validation-00000-of-00001.parquet"
    source = load_splits(str(hub)).validation
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(len(content) - 1000) + content[len(content) - 996 :])
    with pytest.raises(DataError, match=r"validation-00000-of-00001.parquet: cannot be read as"):
        source.content(0)


def test_a_row_without_image_is_named(tmp_path):
    table = pyarrow.table(
        {
            "image": pyarrow.array([{"bytes": None, "path": "here.png"}] * 6, BYTES_AND_PATH),
            "label": [0, 1] * 3,
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet", row_group_size=4)
    with pytest.raises(DataError, match=r"train.parquet: row 1 of group 1 has no image"):
        load_folder_all(tmp_path).content(5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b""], "label": [0]}, "columns picture, label; expected one called image or"),
        ({"image": [b""], "class": [0]}, "columns image, class; expected one called label or"),
        ({"image": ["a.png"], "label": [0]}, "image is string; expected bytes of image files"),
        ({"image": [{"path": "a"}], "label": [0]}, "image.bytes is None; expected bytes"),
        ({"image": [b""], "label": ["cat"]}, "column label is string; expected whole numbers"),
        ({"image": [b""], "label": [-1]}, "no image has a label"),
        ({"image": [b""], "label": [0]}, "only one class, '0'"),
        ({"image": [b"", b""], "label": [1, None]}, "train has labels from -1 to 1; expected"),
        ({"image": [b"", b""], "label": [-1, 1]}, "train has labels from -1 to 1; expected 0 to"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path, columns, message):
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    assert message in error_of(tmp_path)


def test_files_that_name_the_classes_otherwise(hub):
    write(hub / "data/validation-00000-of-00001.parquet", range(5), names=("a", "b", "c"))
    assert "the files have different class names" in error_of(hub)
    write(hub / "data/validation-00000-of-00001.parquet", range(5), names=("ant", "bee"))
    assert "the files have different class names" in error_of(hub)


def test_without_the_library(hub, monkeypatch):
    monkeypatch.setattr(stored, "find_spec", lambda _: None)
    assert "needs pyarrow; install it with pip install 'bott" in error_of(hub)
