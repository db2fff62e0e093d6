"""The idx reader, the data set that ships with the package, and the script that makes it."""

import gzip
import runpy
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.data.fashion_mnist import (
    CLASS_NAMES,
    FOLDER_VARIABLE,
    default_folder,
    read_split,
)
from bottleneck_transformer_flax.errors import DataError

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_embedded_data.py"


def idx_bytes(values: np.ndarray, magic: int | None = None) -> bytes:
    header = [0x0800 + values.ndim if magic is None else magic, *values.shape]
    return np.array(header, ">u4").tobytes() + values.astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content))


def write_split(folder: Path, split: str, per_class: int, seed: int) -> np.ndarray:
    """A small split whose images hold their row number; the labels are returned."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), per_class))
    images = np.zeros((len(labels), 28, 28), np.uint8) + np.arange(len(labels))[:, None, None]
    write(folder / f"{split}-images-idx3-ubyte.gz", idx_bytes(images))
    write(folder / f"{split}-labels-idx1-ubyte.gz", idx_bytes(labels))
    return labels


@pytest.fixture
def folder(tmp_path) -> Path:
    write_split(tmp_path, "train", per_class=8, seed=1)
    write_split(tmp_path, "t10k", per_class=4, seed=2)
    return tmp_path


def test_load_splits_reads_the_named_folder(folder, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    assert default_folder() == folder
    splits = load_splits("fashion-mnist")
    assert splits.description == (
        "70 training, 10 validation (held out of the training images) and 40 test images, "
        "10 classes (Fashion-MNIST)"
    )
    assert splits.test.describe(12) == "fashion-mnist test image 12"
    assert splits.test.labels.tolist() == write_split(folder, "t10k", per_class=4, seed=2).tolist()
    assert [splits.test.read(i).getpixel((3, 4)) for i in (0, 7)] == [(0, 0, 0), (7, 7, 7)]


IMAGES = np.zeros((80, 28, 28), np.uint8)
WHOLE = gzip.compress(idx_bytes(IMAGES), mtime=0)
DAMAGED = "cannot be read as a gzipped idx file: "


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("images-idx3", WHOLE[:-9], f"{DAMAGED}Compressed file ended before"),
        ("images-idx3", WHOLE[:40] * 3, DAMAGED),
        ("images-idx3", b"no gzip", f"{DAMAGED}Not a gzipped file"),
        ("images-idx3", idx_bytes(IMAGES, magic=0x0D03), f"{DAMAGED}magic number is 0x00000d03"),
        ("images-idx3", idx_bytes(IMAGES)[:-1], f"{DAMAGED}.* of size 62719 into shape"),
        ("images-idx3", bytes(5), f"{DAMAGED}buffer is smaller than requested"),
        ("images-idx3", idx_bytes(np.zeros((80, 28, 27))), r"are \(28, 27\)"),
        ("labels-idx1", idx_bytes(np.zeros(79)), "80 images but 79 labels"),
        ("labels-idx1", idx_bytes(np.full(80, 10)), "has label 10"),
    ],
)
def test_damaged_files(folder, file, content, message):
    path = folder / f"train-{file}-ubyte.gz"
    path.write_bytes(gzip.compress(content) if content.startswith(b"\0") else content)
    with pytest.raises(DataError, match=message):
        read_split(folder, "train")


def test_embedded_data_is_stratified_with_its_licence_beside_it():
    splits = load_splits("embedded")
    assert splits.description == (
        "6,000 training and 1,000 validation images, 10 classes (embedded Fashion-MNIST subset)"
    )
    assert splits.train.class_names == splits.validation.class_names == CLASS_NAMES
    assert (CLASS_NAMES[0], CLASS_NAMES[9]) == ("T-shirt/top", "Ankle boot")
    assert np.bincount(splits.train.labels).tolist() == [600] * 10
    assert np.bincount(splits.validation.labels).tolist() == [100] * 10
    assert splits.train.native_size == splits.validation.native_size == (28, 28)
    # Not sorted by class: a run of one label would make unshuffled batches useless.
    assert len(set(splits.validation.labels[:50].tolist())) == 10
    embedded = resources.files("bottleneck_transformer_flax.data").joinpath("embedded")
    licence = embedded.joinpath("LICENSE.fashion-mnist").read_text(encoding="utf-8")
    assert "Copyright © 2017 Zalando SE" in licence


def run(source: Path, out: Path, train: int = 5) -> int:
    sizes = ["--train-per-class", str(train), "--test-per-class", "2"]
    return runpy.run_path(str(SCRIPT))["main"]([str(source), str(out), *sizes])


def test_script_draws_the_same_from_every_class_at_any_time(folder, tmp_path, monkeypatch):
    assert run(folder, tmp_path / "out.npz") == 0
    with np.load(tmp_path / "out.npz") as made:
        for name, split, per_class in (("train", "train", 5), ("test", "t10k", 2)):
            labels, images = made[f"{name}_labels"], made[f"{name}_images"]
            assert np.bincount(labels).tolist() == [per_class] * 10
            rows = images[:, 0, 0]
            assert (np.diff(rows.astype(int)) > 0).all()
            np.testing.assert_array_equal(read_split(folder, split).labels[rows], labels)
        assert tuple(made["class_names"].tolist()) == CLASS_NAMES
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert run(folder, tmp_path / "later.npz") == 0
    assert (tmp_path / "later.npz").read_bytes() == (tmp_path / "out.npz").read_bytes()


def test_script_reports_what_is_missing(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "out.npz", train=9) == 1
    assert "class 'T-shirt/top' has 8 images; expected 9" in capsys.readouterr().err
    assert run(tmp_path / "nowhere", tmp_path / "out.npz") == 1
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()
