"""Sources give the right image with the right label, and are light to import and to pickle."""

import pickle

import numpy as np
import pytest

from bottleneck_transformer_flax.data.datasets import load_folder_all
from bottleneck_transformer_flax.data.sources.base import ImageSource, relabel
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.data.sources.memory import ArraySource
from bottleneck_transformer_flax.errors import DataError
from data.image_files import colour_folder


def array_source(channels: tuple[int, ...] = (3,)) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, *channels), dtype=np.uint8)
    return ArraySource(images, np.array([0, 1, 2, 1, 0], np.int32), ("a", "b", "c"), "toy")


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
    assert relabel(source, source.class_names) is source
    with pytest.raises(DataError, match=r"lacks: 'c', 'x'; .*'a', 'b', 'd'"):
        relabel(source, ("a", "b", "d"))


def test_relabel_knows_imagenets_folders(tmp_path):
    source = load_folder_all(colour_folder(tmp_path, "n01440764", "n01443537", "tench "))
    with pytest.raises(DataError, match="lacks: 'tench '"):
        relabel(source, ("goldfish", "tench"))
    source = load_folder_all(colour_folder(tmp_path / "more", "n01440764", "goldfish"))
    relabelled = relabel(source, ("goldfish", "tench"))
    assert relabelled.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert relabel(source, ("goldfish", "n01440764")).labels.tolist() == [0, 0, 0, 1, 1, 1]
