"""Unreadable images: the first one stops, or all are counted once and listed."""

import pytest

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.loader import evaluation_batches
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.preprocessing import Preprocessing
from data.image_files import numbered_source

TRANSFORM = EvaluationTransform(Preprocessing(size=(4, 4), crop=1.0))


def read(source, bad_images=None):
    return list(evaluation_batches(source, TRANSFORM, batch_size=3, bad_images=bad_images))


def test_good_images_and_padding_say_nothing(tmp_path):
    bad_images = BadImages(skip=False)
    last = read(numbered_source(tmp_path, 7), bad_images)[-1]
    assert last["valid"].tolist() == [True, False, False]
    assert (bad_images.report(), bad_images.reasons) == ("", {})


@pytest.mark.parametrize("bad_images", [None, BadImages(skip=False)])
def test_the_first_one_stops_with_its_path_the_reason_and_the_remedy(tmp_path, bad_images):
    with pytest.raises(DataError) as caught:
        read(numbered_source(tmp_path, 7, bad=(1, 5)), bad_images)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/01.png: cannot be read as an image: ")
    assert message.endswith("leave such files out with --skip-bad-images")
    assert "\n" not in message


def test_skipped_ones_are_counted_once_and_listed(tmp_path):
    source, bad_images = numbered_source(tmp_path, 7, bad=(1, 5)), BadImages(skip=True)
    batches = read(source, bad_images)
    read(source, bad_images)
    assert [batch["valid"].sum() for batch in batches] == [2, 2, 1]
    assert list(bad_images.reasons) == [str(tmp_path / "01.png"), str(tmp_path / "05.png")]
    first, *others = bad_images.report().splitlines()
    assert first.startswith("2 images")
    assert [line.strip().startswith(str(tmp_path)) for line in others] == [True, True]


def test_images_of_several_sources_are_told_apart(tmp_path):
    bad_images = BadImages(skip=True)
    for name, expected in (("train", "1 image could"), ("val", "2 images could")):
        (tmp_path / name).mkdir()
        read(numbered_source(tmp_path / name, 3, bad=(1,)), bad_images)
        assert bad_images.report().startswith(expected)


def test_a_file_mended_meanwhile_is_told_too(tmp_path):
    source, bad_images = numbered_source(tmp_path, 7), BadImages(skip=True)
    bad_images.add(source, 1)
    assert "can be now" in bad_images.reasons[str(tmp_path / "01.png")]
