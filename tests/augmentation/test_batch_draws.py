"""How the parameters of a batch's augmentation are distributed."""

import jax
import numpy as np
import pytest

from bottleneck_transformer_flax.augmentation.batch import (
    draw_cut_box,
    draw_erased_boxes,
    draw_flips,
    draw_mixture,
)
from bottleneck_transformer_flax.augmentation.config import Augmentation

MANY = 8000


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def many(draw, count=4000):
    """The results of a drawing function for as many keys."""
    return as_numpy(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), count)))


def test_flips_are_of_half_of_the_images():
    flips = as_numpy(draw_flips(jax.random.key(0), 4000))
    assert abs(flips.mean() - 0.5) < 0.04
    # One image's says nothing of the next one's.
    assert abs(np.corrcoef(flips[1:], flips[:-1])[0, 1]) < 0.08


@pytest.mark.parametrize("size", [(64, 96), (101, 57)])
def test_erased_boxes_have_the_area_and_shape_asked_for(size):
    boxes = as_numpy(draw_erased_boxes(jax.random.key(0), MANY, size, 0.3))
    height, width = boxes.bottom - boxes.top, boxes.right - boxes.left
    chosen = height > 0
    assert abs(chosen.mean() - 0.3) < 0.03
    assert abs(np.corrcoef(chosen[1:], chosen[:-1])[0, 1]) < 0.06
    height, width, top, left = (x[chosen] for x in (height, width, boxes.top, boxes.left))
    assert top.min() == left.min() == 0
    assert (top + height).max() == size[0]
    assert (left + width).max() == size[1]
    area, ratio = height * width / (size[0] * size[1]), height / width
    # Whole pixels: the smallest sides are of 5, so both are within a fifth.
    assert 0.016 < area.min() < 0.025
    assert 0.31 < area.max() < 0.36
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.01
    assert 0.25 < ratio.min() < 0.35
    assert 2.9 < ratio.max() < 4
    # Small ones fit whatever their shape: there the logarithm is even, and so is the position.
    small = area < 0.1
    assert abs(np.log(ratio[small]).mean()) < 0.08
    assert abs(np.log(ratio[small]).std() - np.log(1 / 0.09) / np.sqrt(12)) < 0.08
    for start, room in ((top, size[0] - height), (left, size[1] - width)):
        place = start[small] / room[small]
        assert abs(place.mean() - 0.5) < 0.03
        assert abs(place.std() - 1 / np.sqrt(12)) < 0.03


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 2), (8, 200)])
def test_erased_boxes_lie_inside_images_of_any_shape(size):
    boxes = as_numpy(draw_erased_boxes(jax.random.key(0), MANY, size, 1.0))
    for first, last, side in (
        (boxes.top, boxes.bottom, size[0]),
        (boxes.left, boxes.right, size[1]),
    ):
        assert (first >= 0).all()
        assert (first <= last).all()
        assert (last <= side).all()
    area = (boxes.bottom - boxes.top) * (boxes.right - boxes.left)
    # In long images the shape gives way, not the area; of one pixel nothing is erased.
    assert area.max() <= 0.5 * size[0] * size[1] + 1
    assert (area.mean() > 0.1 * size[0] * size[1]) == (max(size) > 1)


@pytest.mark.parametrize("size", [(33, 8), (1, 1)])
def test_the_cut_box_is_that_of_the_paper(size):
    shares = np.array([0.0, 0.6, 1.0], np.float32)
    boxes = many(lambda key: jax.vmap(lambda share: draw_cut_box(key, share, size))(shares))
    for number, share in enumerate(shares):
        top, left, bottom, right = (corner[:, number] for corner in boxes)
        for first, last, side in ((top, bottom, size[0]), (left, right, size[1])):
            length = int(np.floor(np.sqrt(1 - share) * side))
            # Every centre is as likely as another, and what lies over the border is cut off.
            starts = np.arange(side) - length // 2
            kept = np.maximum(starts, 0), np.minimum(starts + length, side)
            assert set(zip(first[:, 0], last[:, 0], strict=True)) == set(zip(*kept, strict=True))
            expected = (kept[1] - kept[0]).mean()
            assert abs((last - first).mean() - expected) <= 0.03 * side * (length > 0)


def test_shares_of_mixup_are_of_a_beta_distribution():
    alpha = 0.2
    options = Augmentation(mixup_alpha=alpha)
    mixture = many(lambda key: draw_mixture(key, (2, 3), options))
    np.testing.assert_array_equal(mixture.own, mixture.share[:, None, None] * np.ones((2, 3)))
    share = mixture.share
    assert abs(share.mean() - 0.5) < 0.02
    assert abs(share.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_mixup_and_cutmix_take_turns():
    both = Augmentation(mixup_alpha=1000.0, cutmix_alpha=1.0)
    mixture = many(lambda key: draw_mixture(key, (13, 22), both))
    cuts = np.isin(mixture.own, [0, 1]).all(axis=(1, 2))
    assert abs(cuts.mean() - 0.5) < 0.04
    # With so great an alpha mixup's share is a half (σ = 0.011); CutMix's has an alpha of its own.
    np.testing.assert_allclose(mixture.own[~cuts], 0.5, atol=0.06)
    np.testing.assert_allclose(mixture.share[~cuts], 0.5, atol=0.06)
    own, share = mixture.own[cuts], mixture.share[cuts]
    np.testing.assert_allclose(share, own.mean(axis=(1, 2)), atol=1e-6)
    # The pixels taken are one rectangle.
    taken = own == 0
    area = taken.any(axis=2).sum(axis=1) * taken.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(area, taken.sum(axis=(1, 2)))
    # Of a side s of the box, of which s² is uniform, s − s² / 4 is inside on average; a side is
    # rounded down by half a pixel on average, of 13 or 22.
    sides = np.sqrt((np.arange(1000) + 0.5) / 1000)
    expected = 1 - np.mean((sides - sides**2 / 4) ** 2)
    assert abs(share.mean() - expected) < 0.05
    alone = many(lambda key: draw_mixture(key, (13, 22), Augmentation(cutmix_alpha=0.2)))
    assert np.isin(alone.own, [0, 1]).all()
