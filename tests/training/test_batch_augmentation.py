"""What is applied, against loops over pixels; how it is drawn; rows that are no images; devices."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.training.batch_augmentation import (
    BatchAugmentation,
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
from reference import augmentation as oracle

SHAPES = [(5, 7, 4), (4, 1, 6), (1, 3, 1)]
SHAPE = (8, 9, 12)
MANY = 8000
ERASING = {"flip": False, "erasing_probability": 0.7}
MIXING = {"flip": False, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}
EVERYTHING = {**ERASING, **MIXING, "flip": True}


def batch_of(count, height, width, classes=5):
    rng = np.random.default_rng(count + 10 * height + 100 * width)
    images = rng.normal(size=(count, height, width, 3)).astype(np.float32)
    targets = 0.9 * np.eye(classes)[rng.integers(classes, size=count)] + 0.1 / classes
    return images, targets.astype(np.float32)


def all_valid(count):
    return jnp.ones(count, bool)


def boxes_of(*corners):
    return Boxes(*(jnp.array(values, jnp.int32) for values in zip(*corners, strict=True)))


def quickly_compiled(function, **options):
    """Compiled without optimisation: it runs only a few times."""
    options["compiler_options"] = {"xla_backend_optimization_level": 0}
    return jax.jit(function, **options)


quick_erase, quick_mix = quickly_compiled(erase), quickly_compiled(mix)
quick_cutmix = quickly_compiled(cutmix, static_argnums=1)


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def many(draw, count=4000):
    """The results of a drawing function for as many keys."""
    keys = jax.random.split(jax.random.key(0), count)
    return as_numpy(quickly_compiled(jax.vmap(draw))(keys))


@cache
def augmenting(**options):
    """The compiled function, which tests share."""
    return quickly_compiled(partial(augment_batch, options=BatchAugmentation(**options)))


@pytest.mark.parametrize("shape", SHAPES)
def test_flip(shape):
    images, _ = batch_of(*shape)
    flipped = np.arange(shape[0]) % 3 != 1
    expected = np.stack(
        [
            image[:, ::-1] if mirrored else image
            for image, mirrored in zip(images, flipped, strict=True)
        ]
    )
    np.testing.assert_array_equal(flip(jnp.array(images), jnp.array(flipped)), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_erase(shape):
    images, _ = batch_of(*shape)
    noise = images[::-1] + 7
    count, height, width = shape
    corners = [(0, 0, height, width), (0, 0, 0, width), (height // 2, width // 3, height, width)]
    corners = (corners * 2)[:count]
    found = quick_erase(jnp.array(images), boxes_of(*corners), jnp.array(noise))
    np.testing.assert_array_equal(found, oracle.erased(images, corners, noise))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup(shape, share):
    images, targets = batch_of(*shape)
    valid = np.arange(shape[0]) != 1
    mixture = mixup(jnp.float32(share), shape[1:])
    found = quick_mix(jnp.array(images), jnp.array(targets), jnp.array(valid), mixture)
    for ours, expected in zip(found, oracle.mixed(images, targets, valid, share), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_cutmix(shape):
    images, targets = batch_of(*shape)
    valid = np.arange(shape[0]) != 1
    height, width = shape[1:]
    for box in ((0, 0, height, width), (height // 2, 0, height, width // 2), (0, 0, 0, 0)):
        found = quick_mix(
            jnp.array(images),
            jnp.array(targets),
            jnp.array(valid),
            quick_cutmix(boxes_of(box), (height, width)),
        )
        expected = oracle.cut_and_mixed(images, targets, valid, box)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


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
    options = BatchAugmentation(mixup_alpha=alpha)
    mixture = many(lambda key: draw_mixture(key, (2, 3), options))
    np.testing.assert_array_equal(mixture.own, mixture.share[:, None, None] * np.ones((2, 3)))
    share = mixture.share
    assert abs(share.mean() - 0.5) < 0.02
    assert abs(share.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_mixup_and_cutmix_take_turns():
    both = BatchAugmentation(mixup_alpha=1e6, cutmix_alpha=1.0)
    mixture = many(lambda key: draw_mixture(key, (13, 22), both))
    cuts = np.isin(mixture.own, [0, 1]).all(axis=(1, 2))
    assert abs(cuts.mean() - 0.5) < 0.04
    # With so great an alpha mixup's share is always a half; CutMix's has an alpha of its own.
    np.testing.assert_allclose(mixture.own[~cuts], 0.5, atol=0.01)
    np.testing.assert_allclose(mixture.share[~cuts], 0.5, atol=0.01)
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


def test_which_of_them_is_taken():
    assert BatchAugmentation(mixup_alpha=0.2).cutmix_probability == 0.0
    assert BatchAugmentation(cutmix_alpha=0.2).cutmix_probability == 1.0
    assert BatchAugmentation(mixup_alpha=0.2, cutmix_alpha=1.0).cutmix_probability == 0.5
    assert not BatchAugmentation(erasing_probability=1.0).mixes


def test_nothing_is_what_came_in():
    images, targets = map(jnp.array, batch_of(4, 3, 5))
    nothing = BatchAugmentation(flip=False)
    found = augment_batch(images, targets, all_valid(4), jax.random.key(0), nothing)
    assert found[0] is images
    assert found[1] is targets


def test_noise_is_standard_normal_and_new_for_every_pixel():
    images, targets = jnp.full((*SHAPE, 3), 50.0), jnp.array(batch_of(*SHAPE)[1])
    values = []
    for seed in range(30):
        key = jax.random.key(seed)
        found, same = augmenting(**ERASING)(images, targets, all_valid(8), key)
        np.testing.assert_array_equal(same, targets)
        found = np.asarray(found)
        values.append(found[found != 50])
    values = np.concatenate(values)
    expected = 0.7 * (0.02 + 1 / 3) / 2
    assert abs(len(values) / (30 * images.size) - expected) < 0.03
    assert abs(values.mean()) < 0.04
    assert abs(values.std() - 1) < 0.04
    assert len(np.unique(values)) > 0.99 * len(values)


def test_the_parts_have_streams_of_their_own():
    """Each alone does what it does together with the others, in the order flip, erase, mix."""
    images, targets = map(jnp.array, batch_of(*SHAPE))
    for seed in range(6):
        expected = images, targets
        for options in ({"flip": True}, ERASING, MIXING):
            expected = augmenting(**options)(*expected, all_valid(8), jax.random.key(seed))
        together = augmenting(**EVERYTHING)(images, targets, all_valid(8), jax.random.key(seed))
        for found, one_by_one in zip(together, expected, strict=True):
            np.testing.assert_allclose(found, one_by_one, atol=1e-6)


def test_targets_keep_their_sum_and_one_compilation_is_enough():
    images, targets = map(jnp.array, batch_of(*SHAPE))
    augment, results = augmenting(**EVERYTHING), set()
    compiled = augment._cache_size()
    for seed in range(20):
        found, mixed_targets = augment(images, targets, all_valid(8), jax.random.key(seed))
        assert (found.dtype, mixed_targets.dtype) == (jnp.float32, jnp.float32)
        np.testing.assert_allclose(mixed_targets.sum(axis=1), 1, atol=1e-6)
        assert (np.asarray(mixed_targets) >= 0).all()
        again = augment(images, targets, all_valid(8), jax.random.key(seed))[0]
        np.testing.assert_array_equal(again, found)
        results.add(np.asarray(found).tobytes())
    assert len(results) == 20
    assert augment._cache_size() <= compiled + 1


@pytest.mark.parametrize("shape", [(1, 3, 2), (0, 4, 4)])
def test_one_image_or_none(shape):
    images, targets = (jnp.zeros((*shape, 3)), jnp.zeros((shape[0], 5)))
    options = BatchAugmentation(**EVERYTHING)
    outputs = jax.eval_shape(
        partial(augment_batch, options=options),
        images,
        targets,
        all_valid(shape[0]),
        jax.random.key(0),
    )
    assert [output.shape for output in outputs] == [images.shape, targets.shape]


def test_rows_that_are_no_images_reach_no_other():
    images, targets = batch_of(*SHAPE)
    valid = np.array([True, True, False, True, True, False, True, True])
    targets[~valid] = images[~valid] = np.nan
    changed = 0
    for seed in range(20):
        found, mixed_targets = augmenting(**EVERYTHING)(
            jnp.array(images), jnp.array(targets), jnp.array(valid), jax.random.key(seed)
        )
        assert np.isfinite(found[valid]).all()
        # The partners of rows 2 and 5 are each other; those of 3 and 4 too.
        np.testing.assert_array_equal(np.isnan(mixed_targets).any(axis=1), ~valid)
        changed += not np.allclose(mixed_targets[valid], targets[valid])
    assert changed > 10
    # Here each row that is no image has a partner that is one, which stays as it is.
    valid = np.arange(8) < 4
    images, targets = batch_of(*SHAPE)
    targets[~valid] = images[~valid] = np.nan
    for seed in range(3):
        found, mixed_targets = augmenting(**MIXING)(
            jnp.array(images), jnp.array(targets), jnp.array(valid), jax.random.key(seed)
        )
        np.testing.assert_array_equal(found, images)
        np.testing.assert_array_equal(mixed_targets, targets)


def test_two_devices_do_as_one():
    images, targets = batch_of(*SHAPE)
    valid = np.arange(8) != 2
    mesh = Mesh(np.array(jax.devices()[:2]), ("images",))
    sharding = NamedSharding(mesh, PartitionSpec("images"))
    augment, changed = augmenting(**EVERYTHING), 0
    for seed in range(6):
        key = jax.random.key(seed)
        alone = augment(jnp.array(images), jnp.array(targets), jnp.array(valid), key)
        spread = augment(*(jax.device_put(x, sharding) for x in (images, targets, valid)), key)
        for one, two in zip(alone, spread, strict=True):
            assert two.sharding.is_equivalent_to(sharding, two.ndim)
            np.testing.assert_allclose(one, two, atol=1e-6)
        changed += not np.allclose(alone[1], targets)
    assert changed >= 4


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup_alpha": -0.1}, r"mixup_alpha is -0\.1; expected a finite number of at least 0"),
        ({"mixup_alpha": float("inf")}, "mixup_alpha is inf"),
        ({"cutmix_alpha": float("nan")}, "cutmix_alpha is nan; expected a finite number"),
        ({"cutmix_alpha": "1"}, "cutmix_alpha is '1'"),
        ({"erasing_probability": 1.1}, r"erasing_probability is 1\.1; .* in \[0, 1\]$"),
        ({"erasing_probability": float("nan")}, "erasing_probability is nan"),
        ({"erasing_probability": True}, "erasing_probability is True"),
    ],
)
def test_options_check_themselves(options, message):
    with pytest.raises(ConfigError, match=message):
        BatchAugmentation(**options)


def test_ends_of_the_ranges_are_allowed():
    for chance in (0.0, 1.0):
        assert BatchAugmentation(erasing_probability=chance).erasing_probability == chance
