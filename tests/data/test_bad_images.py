"""Unreadable images: the first one stops, or all are counted once and listed."""

import time
from contextlib import closing

import numpy as np
import pytest

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.data import bad_images
from bottleneck_transformer_flax.data.bad_images import REMEDY, BadImages, check_images
from bottleneck_transformer_flax.data.loader import evaluation_batches
from bottleneck_transformer_flax.data.sources.base import select
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.figures.style import new_figure, save_png
from bottleneck_transformer_flax.preprocessing import Preprocessing
from data.image_files import numbered_source


@pytest.mark.parametrize("given", [None, BadImages(skip=False)])
def test_the_first_one_stops_with_its_path_the_reason_and_the_remedy(tmp_path, given):
    source = numbered_source(tmp_path, 7, bad=(1, 5))
    transform = EvaluationTransform(Preprocessing(size=(4, 4), crop=1.0))
    with pytest.raises(DataError) as caught:
        list(evaluation_batches(source, transform, batch_size=3, bad_images=given))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/01.png: cannot be read as an image: ")
    assert message.endswith("repair or remove it, or leave such images out with --skip-bad-images")
    assert "\n" not in message


@pytest.mark.parametrize("num_workers", [0, 1])
def test_one_that_is_read_ahead_is_named_within_a_second_and_stops_before_its_turn(
    tmp_path, caplog, monkeypatch, num_workers
):
    """As during a compilation, when nobody asks for the next batch."""
    # Half a second, and the rest for a busy machine.
    monkeypatch.setattr(bad_images, "_SECONDS_UNTIL_NAMED", 0.1)
    source = numbered_source(tmp_path, 40, bad=(5,))
    transform = EvaluationTransform(Preprocessing(size=(4, 4), crop=1.0))
    batches = evaluation_batches(source, transform, batch_size=2, num_workers=num_workers)
    with closing(batches):
        assert next(batches)["valid"].all()
        began = time.monotonic()
        while not caplog.messages and time.monotonic() < began + 10:
            time.sleep(0.01)
        assert time.monotonic() < began + 1
        (note,) = caplog.messages
        assert note.startswith(f"{tmp_path}/05.png: cannot be read as an image: ")
        assert "stops the run when the step under way is done" in note
        with pytest.raises(DataError, match=r"05\.png: .*--skip-bad-images"):
            next(batches)


def test_a_note_is_only_for_one_whose_error_is_late(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(bad_images, "_SECONDS_UNTIL_NAMED", 0.05)
    source = numbered_source(tmp_path, 3, bad=(1,))
    for skip in (False, True):
        met = BadImages(skip=skip)
        met.raise_met()
        met.meet(source, [1])
        if skip:
            met.raise_met()
        else:
            with pytest.raises(DataError, match=r"01\.png"):
                met.raise_met()
    raised = BadImages(skip=False)
    with pytest.raises(DataError):
        raised.add(source, 1)
    raised.meet(source, [1])
    time.sleep(0.1)
    assert not caplog.messages


def test_a_small_data_set_is_read_before_anything_else(tmp_path, monkeypatch):
    """As far as the time goes; each process reads its shard."""
    source = numbered_source(tmp_path, 7, bad=(4,))
    good = select(source, np.arange(4))
    bad = rf"^{tmp_path}/04\.png: cannot be read as an image: .*; {REMEDY}$"
    check_images([good, good])
    for arguments in (([good, source],), ([source], (1, 3))):
        with pytest.raises(DataError, match=bad):
            check_images(*arguments)
    check_images([source], (0, 3))
    for name in ("_MOST_CHECKED", "_CHECK_SECONDS"):
        with monkeypatch.context() as patch:
            patch.setattr(bad_images, name, 0)
            check_images([source])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_figures_that_this_package_drew_are_left_out_and_listed(tmp_path, num_workers):
    source = numbered_source(tmp_path, 3)
    save_png(new_figure(1.0, 1.0), tmp_path / "01.png")
    check_images([source])
    bad = BadImages(skip=False)
    transform = EvaluationTransform(Preprocessing(size=(4, 4), crop=1.0))
    (batch,) = evaluation_batches(
        source, transform, batch_size=3, num_workers=num_workers, bad_images=bad
    )
    assert batch["valid"].tolist() == [True, False, True]
    assert "01.png: is a figure that botnet drew" in bad.report()


def test_skipped_ones_are_counted_once_and_listed(tmp_path):
    """A file of the same name in another folder is another; one repaired meanwhile is listed."""
    train, val = (tmp_path / "train", tmp_path / "val")
    skipped = BadImages(skip=True)
    assert skipped.report() == ""
    for folder, bad in ((train, (1,)), (val, ())):
        folder.mkdir()
        source = numbered_source(folder, 2, bad=bad)
        for _ in range(2):
            skipped.add(source, 1)
        assert skipped.report().splitlines()[0] == (
            "1 image could not be read and was left out:"
            if folder == train
            else "2 images could not be read and were left out:"
        )
    _, first, second = skipped.report().splitlines()
    assert first.startswith(f"  {train}/01.png: cannot be read as an image: ")
    assert second == f"  {val}/01.png: could not be read when its turn came, but can be now"
