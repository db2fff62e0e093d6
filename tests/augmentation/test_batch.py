"""What is applied, against loops over pixels; streams and devices; how parameters are drawn."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bottleneck_transformer_flax.augmentation.batch import (
    Boxes,
    augment_batch,
    cutmix,
    draw_cut_box,
    draw_erased_boxes,
    draw_flips,
    draw_mixture,
    erase,
    flip,
    mix,
    mixup,
)
from bottleneck_transformer_flax.augmentation.config import Augmentation
from reference import augmentation as oracle

SHAPES = [(5, 7, 4), (4, 1, 6), (1, 3, 1)]
SHAPE = (8, 9, 12)
ERASING = {"flip": False, "erasing_probability": 0.7}
MIXING = {"flip": False, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}
EVERYTHING = {**ERASING, **MIXING, "flip": True}


def batch_of(count, height, width, classes=5):
    rng = np.random.default_rng(count + 10 * height + 100 * width)
    images = rng.normal(size=(count, height, width, 3)).astype(np.float32)
    targets = 0.9 * np.eye(classes)[rng.integers(classes, size=count)] + 0.1 / classes
    return images, targets.astype(np.float32)


def boxes_of(*corners):
    return Boxes(*(jnp.array(values, jnp.int32) for values in zip(*corners, strict=True)))


quick_erase, quick_mix = jax.jit(erase), jax.jit(mix)
quick_cutmix = jax.jit(cutmix, static_argnums=1)


@cache
def compiled(**options):
    return jax.jit(partial(augment_batch, augmentation=Augmentation(**options)))


def augmented(images, targets, valid, seed, **options):
    """Images and targets by a compiled function that tests share."""
    arrays = map(jnp.asarray, (images, targets, valid))
    return tuple(map(np.asarray, compiled(**options)(*arrays, jax.random.key(seed))))


@pytest.mark.parametrize("shape", SHAPES)
def test_flip_and_erase(shape):
    images, _ = batch_of(*shape)
    count, height, width = shape
    flipped = np.arange(count) % 3 != 1
    expected = [image[:, ::-1] if flipped[row] else image for row, image in enumerate(images)]
    np.testing.assert_array_equal(flip(jnp.array(images), jnp.array(flipped)), expected)
    noise = images[::-1] + 7
    corners = [(0, 0, height, width), (0, 0, 0, width), (height // 2, width // 3, height, width)]
    corners = (corners * 2)[:count]
    found = quick_erase(jnp.array(images), boxes_of(*corners), jnp.array(noise))
    np.testing.assert_array_equal(found, oracle.erased(images, corners, noise))


@pytest.mark.parametrize("shape", SHAPES)
def test_mixup_and_cutmix(shape):
    """Rows that are no images, NaN here, reach no other: their partners stay as they are."""
    images, targets = batch_of(*shape)
    valid, (height, width) = np.arange(shape[0]) != 1, shape[1:]
    targets[~valid] = images[~valid] = np.nan
    arrays = list(map(jnp.array, (images, targets, valid)))
    for share in (0.0, 0.3, 1.0):
        found = quick_mix(*arrays, mixup(jnp.float32(share), (height, width)))
        expected = oracle.mixed(images, targets, valid, np.full((height, width), share))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for box in ((0, 0, height, width), (height // 2, 0, height, width // 2), (0, 0, 0, 0)):
        found = quick_mix(*arrays, quick_cutmix(boxes_of(box), (height, width)))
        own = np.ones((height, width))
        own[box[0] : box[2], box[1] : box[3]] = 0
        expected = oracle.mixed(images, targets, valid, own)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


def test_noise_is_standard_normal_and_new_for_every_pixel():
    images, targets = np.full((*SHAPE, 3), 50.0, np.float32), batch_of(*SHAPE)[1]
    values = []
    for seed in range(30):
        found, same = augmented(images, targets, np.ones(8, bool), seed, **ERASING)
        np.testing.assert_array_equal(same, targets)
        values.append(found[found != 50])
    values = np.concatenate(values)
    expected = 0.7 * (0.02 + 1 / 3) / 2
    assert abs(len(values) / (30 * images.size) - expected) < 0.03
    assert abs(values.mean()) < 0.04
    assert abs(values.std() - 1) < 0.04
    assert len(np.unique(values)) > 0.99 * len(values)


def test_what_is_flipped_says_nothing_of_what_is_erased():
    columns = np.broadcast_to(50.0 + np.arange(12)[:, None], (*SHAPE, 3)).astype(np.float32)
    targets, flipped, erased = batch_of(*SHAPE)[1], [], []
    for seed in range(60):
        found, _ = augmented(columns, targets, np.ones(8, bool), seed, erasing_probability=0.5)
        flipped.append((found == columns[:, :, ::-1]).any(axis=(1, 2, 3)))
        erased.append((found < 25).any(axis=(1, 2, 3)))
    flipped, erased = np.concatenate(flipped), np.concatenate(erased)
    assert abs(flipped.mean() - 0.5) < 0.1
    assert abs(erased.mean() - 0.5) < 0.1
    assert abs(np.corrcoef(flipped, erased)[0, 1]) < 0.2


def test_the_parts_have_streams_of_their_own():
    """Each alone does what it does together with the others, in the order flip, erase, mix."""
    valid = np.ones(8, bool)
    for seed in range(6):
        expected = batch_of(*SHAPE)
        for options in ({"flip": True}, ERASING, MIXING):
            expected = augmented(*expected, valid, seed, **options)
        together = augmented(*batch_of(*SHAPE), valid, seed, **EVERYTHING)
        for found, one_by_one in zip(together, expected, strict=True):
            np.testing.assert_allclose(found, one_by_one, atol=1e-6)


def test_targets_keep_their_sum_and_one_compilation_is_enough():
    batch, results = (*batch_of(*SHAPE), np.ones(8, bool)), set()
    compilations = compiled(**EVERYTHING)._cache_size()
    for seed in range(20):
        found, mixed_targets = augmented(*batch, seed, **EVERYTHING)
        assert (found.dtype, mixed_targets.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(mixed_targets.sum(axis=1), 1, atol=1e-6)
        assert (mixed_targets >= 0).all()
        np.testing.assert_array_equal(augmented(*batch, seed, **EVERYTHING)[0], found)
        results.add(found.tobytes())
    assert len(results) == 20
    assert compiled(**EVERYTHING)._cache_size() <= compilations + 1


def test_one_image_none_and_no_augmentation():
    """Nothing to do gives the very arrays that came in."""
    for count in (0, 1):
        arrays = jnp.zeros((count, 3, 2, 3)), jnp.zeros((count, 5)), jnp.ones(count, bool)
        augment = partial(augment_batch, augmentation=Augmentation(**EVERYTHING))
        found = jax.eval_shape(augment, *arrays, jax.random.key(0))
        assert [output.shape for output in found] == [(count, 3, 2, 3), (count, 5)]
        images, targets = augment_batch(*arrays, jax.random.key(0), Augmentation(flip=False))
        assert images is arrays[0]
        assert targets is arrays[1]


def test_two_devices_do_as_one():
    images, targets = batch_of(*SHAPE)
    valid = np.arange(8) != 2
    mesh = Mesh(np.array(jax.devices()[:2]), ("images",))
    sharding = NamedSharding(mesh, PartitionSpec("images"))
    spread_out = [jax.device_put(array, sharding) for array in (images, targets, valid)]
    changed = 0
    for seed in range(6):
        alone = augmented(images, targets, valid, seed, **EVERYTHING)
        spread = compiled(**EVERYTHING)(*spread_out, jax.random.key(seed))
        for one, two in zip(alone, spread, strict=True):
            assert two.sharding.is_equivalent_to(sharding, two.ndim)
            np.testing.assert_allclose(one, two, atol=1e-6)
        changed += not np.allclose(alone[1], targets)
    assert changed >= 4


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
    # A box of side s, with s² uniform, has s − s² / 4 of its side inside the image on average.
    # Rounding down to whole pixels, of 13 or 22, takes half a pixel on average.
    sides = np.sqrt((np.arange(1000) + 0.5) / 1000)
    expected = 1 - np.mean((sides - sides**2 / 4) ** 2)
    assert abs(share.mean() - expected) < 0.05
    alone = many(lambda key: draw_mixture(key, (13, 22), Augmentation(cutmix_alpha=0.2)))
    assert np.isin(alone.own, [0, 1]).all()
