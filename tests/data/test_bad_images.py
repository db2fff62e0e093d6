"""Unreadable images: the first one stops, or all are counted once and listed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.loader import evaluation_batches
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.preprocessing import Preprocessing

TRANSFORM = EvaluationTransform(Preprocessing(size=(4, 4), crop=1.0))


def source_of(root: Path, count: int = 7, bad: tuple[int, ...] = (1, 5)) -> FolderSource:
    names = tuple(f"{number}.png" for number in range(count))
    for number, name in enumerate(names):
        if number in bad:
            (root / name).write_text("no image")
        else:
            Image.new("RGB", (4, 4)).save(root / name)
    return FolderSource(root, names, np.zeros(count, np.int32), ("x",))


def read(source, bad_images=None):
    return list(evaluation_batches(source, TRANSFORM, batch_size=3, bad_images=bad_images))


def test_good_images_and_padding_say_nothing(tmp_path):
    bad_images = BadImages(skip=False)
    last = read(source_of(tmp_path, bad=()), bad_images)[-1]
    assert last["valid"].tolist() == [True, False, False]
    assert bad_images.report() == ""
    assert bad_images.reasons == {}


@pytest.mark.parametrize("bad_images", [None, BadImages(skip=False)])
def test_the_first_one_stops_with_its_path_the_reason_and_the_remedy(tmp_path, bad_images):
    with pytest.raises(DataError) as caught:
        read(source_of(tmp_path), bad_images)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "1.png"))
    assert "no image format" in message
    assert "--skip-bad-images" in message
    assert "\n" not in message


def test_skipped_ones_are_counted_once_and_listed(tmp_path):
    source, bad_images = source_of(tmp_path), BadImages(skip=True)
    batches = read(source, bad_images)
    read(source, bad_images)
    assert [batch["valid"].sum() for batch in batches] == [2, 2, 1]
    assert list(bad_images.reasons) == [str(tmp_path / "1.png"), str(tmp_path / "5.png")]
    first, *others = bad_images.report().splitlines()
    assert first.startswith("2 images")
    assert [line.strip().startswith(str(tmp_path)) for line in others] == [True, True]


def test_images_of_several_sources_are_told_apart(tmp_path):
    bad_images = BadImages(skip=True)
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        read(source_of(tmp_path / name, bad=(1,)), bad_images)
        count = len(bad_images.reasons)
        assert bad_images.report().startswith(("1 image could", "2 images could")[count - 1])
    assert count == 2


def test_a_file_mended_meanwhile_is_told_too(tmp_path):
    source, bad_images = source_of(tmp_path, bad=()), BadImages(skip=True)
    bad_images.add(source, 1)
    assert "can be now" in bad_images.reasons[str(tmp_path / "1.png")]
