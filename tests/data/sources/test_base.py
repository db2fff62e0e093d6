"""All kinds of sources give the right image with the right label, in any order."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bottleneck_transformer_flax.data.datasets import load_parts
from bottleneck_transformer_flax.data.packing import pack
from bottleneck_transformer_flax.data.sources.base import ImageSource, relabel
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.data.sources.memory import ArraySource
from bottleneck_transformer_flax.decoding import decode_image
from bottleneck_transformer_flax.errors import DataError
from data.image_files import write_images, write_parquet

COUNTS = {"ant": 5, "bee": 4, "cat": 2}


def make(kind, root):
    """The folder of a data set of one part, and the files that it holds by name."""
    contents = write_images(root / "images", COUNTS)
    if kind == "packed":
        pack(load_parts(str(root / "images")), root / kind, shards=3, num_workers=0)
    if kind == "parquet":
        labels = np.repeat(range(3), list(COUNTS.values())).tolist()
        write_parquet(root / kind / "train.parquet", contents.values(), labels=labels)
        contents = {f"train.parquet/{row}": image for row, image in enumerate(contents.values())}
    return root / ("images" if kind == "folder" else kind), contents


@pytest.mark.parametrize("kind", ["folder", "packed", "parquet"])
def test_every_image_is_read_with_its_name_and_label_pickled_and_by_threads(kind, tmp_path):
    folder, contents = make(kind, tmp_path)
    (source,) = load_parts(str(folder), in_order=True).values()
    assert isinstance(source, ImageSource)
    assert (len(source), source.native_size, source.class_names) == (11, None, tuple(COUNTS))
    assert source.labels.tolist() == [0] * 5 + [1] * 4 + [2] * 2
    assert source.names == tuple(contents)
    below = "all/" if kind == "packed" else ""
    indices = np.random.default_rng(0).permutation(11).tolist()
    for index in indices:
        image = decode_image(io.BytesIO(contents[source.names[index]]))
        assert source.read(index) == image
        assert source.open(index).size == image.size[::-1]
        assert source.describe(index) == f"{folder}/{below}{source.names[index]}"
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(8) as pool:
        expected = [contents[source.names[index]] for index in indices]
        assert list(pool.map(copy.content, indices * 20)) == expected * 20


def array_source(channels: tuple[int, ...] = (3,)) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, *channels), dtype=np.uint8)
    return ArraySource(images, np.array([0, 1, 2, 1, 0], np.int32), ("a", "b", "c"), "toy")


@pytest.mark.parametrize("channels", [(), (3,)])
def test_array_source(channels):
    source = pickle.loads(pickle.dumps(array_source(channels)))
    assert isinstance(source, ImageSource)
    assert (len(source), source.native_size) == (5, (4, 6))
    assert source.describe(3) == "toy image 3"
    for index in range(5):
        expected = source.images[index].reshape(4, 6, -1) + np.zeros(3, np.uint8)
        np.testing.assert_array_equal(np.asarray(source.read(index)), expected)


def test_pickles_are_light(tmp_path):
    names = tuple(f"class/{i:06}.jpg" for i in range(1000))
    folder = FolderSource(tmp_path, names, np.zeros(1000, np.int32), ("class",))
    assert len(pickle.dumps(folder)) < 1000 * 32


def test_relabel_matches_by_name():
    source = relabel(array_source(), ("c", "x", "a", "b"))
    assert source.class_names == ("c", "x", "a", "b")
    assert (source.labels.tolist(), source.labels.dtype) == ([2, 3, 0, 3, 2], np.int32)
    assert (len(source), source.native_size, source.describe(1)) == (5, (4, 6), "toy image 1")
    assert source.read(1) == array_source().read(1)
    assert relabel(source, source.class_names) is source
    with pytest.raises(DataError, match=r"lacks: 'c', 'x'; .*'a', 'b', 'd'"):
        relabel(source, ("a", "b", "d"))


def test_relabel_knows_imagenets_folders():
    def source(*classes):
        return FolderSource(Path("images"), ("a", "b"), np.arange(2, dtype=np.int32), classes)

    with pytest.raises(DataError, match="lacks: 'tench '"):
        relabel(source("n01440764", "tench "), ("goldfish", "tench"))
    imagenet = source("n01440764", "goldfish")
    assert relabel(imagenet, ("goldfish", "tench")).labels.tolist() == [1, 0]
    assert relabel(imagenet, ("goldfish", "n01440764")).labels.tolist() == [1, 0]
