"""Sources give the right image with the right label, and are light to import and to pickle."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.data.loading import load_folder_all, load_splits
from bottleneck_transformer_flax.data.sources import ArraySource, FolderSource, ImageSource, relabel
from bottleneck_transformer_flax.errors import ConfigError, DataError


def array_source(channels: tuple[int, ...] = (3,)) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, *channels), dtype=np.uint8)
    return ArraySource(images, np.array([0, 1, 2, 1, 0], np.int32), ("a", "b", "c"), "toy")


def colour_folder(root, *classes, count=3):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 3), (number, i, 0)).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("channels", [(), (3,)])
def test_array_source(channels):
    source = array_source(channels)
    assert isinstance(source, ImageSource)
    assert (len(source), source.native_size) == (5, (4, 6))
    assert source.describe(3) == "toy image 3"
    for index in range(5):
        image = source.read(index)
        assert image.mode == "RGB"
        expected = source.images[index].reshape(4, 6, -1) + np.zeros(3, np.uint8)
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_folder_source(tmp_path):
    source = load_folder_all(colour_folder(tmp_path, "x", "y"))
    assert isinstance(source, ImageSource)
    assert source.native_size is None
    assert source.class_names == ("x", "y")
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.describe(4) == str(tmp_path / "y" / "1.png")
    assert [source.read(i).getpixel((0, 0))[:2] for i in range(6)] == [
        (label, i) for label in (0, 1) for i in range(3)
    ]


def test_folder_source_names_the_bad_image(tmp_path):
    source = load_folder_all(colour_folder(tmp_path, "x", "y"))
    (tmp_path / "y" / "1.png").write_text("no image")
    with pytest.raises(DataError, match=r"y.1\.png"):
        source.read(4)


def test_load_folder_all_takes_a_single_class(tmp_path):
    assert len(load_folder_all(colour_folder(tmp_path, "x"))) == 3


def test_pickles_are_light(tmp_path):
    source = array_source()
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.images, source.images)
    names = tuple(f"class/{i:06}.jpg" for i in range(1000))
    folder = FolderSource(tmp_path, names, np.zeros(1000, np.int32), ("class",))
    assert len(pickle.dumps(folder)) < 1000 * 32
    assert pickle.loads(pickle.dumps(folder)).names == names


def test_relabel_matches_by_name():
    source = relabel(array_source(), ("c", "x", "a", "b"))
    assert isinstance(source, ImageSource)
    assert source.class_names == ("c", "x", "a", "b")
    assert source.labels.tolist() == [2, 3, 0, 3, 2]
    assert source.labels.dtype == np.int32
    assert (len(source), source.native_size, source.describe(1)) == (5, (4, 6), "toy image 1")
    np.testing.assert_array_equal(np.asarray(source.read(1)), array_source().images[1])


def test_relabel_to_the_same_classes_changes_nothing():
    source = array_source()
    assert relabel(source, ("a", "b", "c")) is source


def test_relabel_names_what_is_missing():
    with pytest.raises(DataError, match=r"lacks: 'a', 'c'; .*'b', 'd'"):
        relabel(array_source(), ("b", "d"))


def test_load_splits_of_a_folder(tmp_path):
    colour_folder(tmp_path, "x", "y", count=10)
    splits = load_splits(str(tmp_path), validation_fraction=0.2, split_seed=3)
    assert splits.description == f"16 training and 4 test images, 2 classes ({tmp_path})"
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    trained_on = {splits.train.describe(i) for i in range(16)}
    tested_on = {splits.test.describe(i) for i in range(4)}
    assert len(trained_on | tested_on) == 20


def test_load_splits_checks_its_arguments(tmp_path):
    with pytest.raises(ConfigError, match="validation_fraction"):
        load_splits("embedded", validation_fraction=0.0)
    with pytest.raises(DataError, match="no such folder"):
        load_splits(str(tmp_path / "nowhere"))


def test_import_needs_neither_jax_nor_grain():
    program = (
        "import sys, bottleneck_transformer_flax.data.loading;"
        "print({'jax', 'grain', 'flax'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_relabel_knows_imagenets_folders(tmp_path):
    source = load_folder_all(colour_folder(tmp_path, "n01440764", "n01443537", "tench "))
    with pytest.raises(DataError, match="'tench '"):
        relabel(source, ("goldfish", "tench"))
    source = load_folder_all(colour_folder(tmp_path / "more", "n01440764", "goldfish"))
    relabelled = relabel(source, ("goldfish", "tench"))
    assert relabelled.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert relabel(source, ("goldfish", "n01440764")).labels.tolist() == [0, 0, 0, 1, 1, 1]
