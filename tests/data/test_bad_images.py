"""Unreadable images: the first one stops, or all are counted once and listed."""

import pytest

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.loader import evaluation_batches
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.preprocessing import Preprocessing
from data.image_files import numbered_source


@pytest.mark.parametrize("bad_images", [None, BadImages(skip=False)])
def test_the_first_one_stops_with_its_path_the_reason_and_the_remedy(tmp_path, bad_images):
    source = numbered_source(tmp_path, 7, bad=(1, 5))
    transform = EvaluationTransform(Preprocessing(size=(4, 4), crop=1.0))
    with pytest.raises(DataError) as caught:
        list(evaluation_batches(source, transform, batch_size=3, bad_images=bad_images))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/01.png: cannot be read as an image: ")
    assert message.endswith("repair or remove it, or leave such images out with --skip-bad-images")
    assert "\n" not in message


def test_skipped_ones_are_counted_once_and_listed(tmp_path):
    """A file of the same name in another folder is another; one repaired meanwhile is listed."""
    train, val = (tmp_path / "train", tmp_path / "val")
    bad_images = BadImages(skip=True)
    assert bad_images.report() == ""
    for folder, bad in ((train, (1,)), (val, ())):
        folder.mkdir()
        source = numbered_source(folder, 2, bad=bad)
        for _ in range(2):
            bad_images.add(source, 1)
        assert bad_images.report().splitlines()[0] == (
            "1 image could not be read and was left out:"
            if folder == train
            else "2 images could not be read and were left out:"
        )
    _, first, second = bad_images.report().splitlines()
    assert first.startswith(f"  {train}/01.png: cannot be read as an image: ")
    assert second == f"  {val}/01.png: could not be read when its turn came, but can be now"
