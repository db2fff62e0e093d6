"""What is applied, against loops over pixels; rows that are no images; streams; devices."""

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


@cache
def augmenting(**options):
    """The compiled function, which tests share."""
    return quickly_compiled(partial(augment_batch, augmentation=Augmentation(**options)))


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


def test_nothing_is_what_came_in():
    images, targets = map(jnp.array, batch_of(4, 3, 5))
    nothing = Augmentation(flip=False)
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


def test_what_is_flipped_says_nothing_of_what_is_erased():
    columns = np.broadcast_to(50.0 + np.arange(12)[:, None], (*SHAPE, 3)).astype(np.float32)
    targets, flipped, erased = jnp.array(batch_of(*SHAPE)[1]), [], []
    augment = augmenting(flip=True, erasing_probability=0.5)
    for seed in range(60):
        key = jax.random.key(seed)
        found = np.asarray(augment(jnp.array(columns), targets, all_valid(8), key)[0])
        flipped.append((found == columns[:, :, ::-1]).any(axis=(1, 2, 3)))
        erased.append((found < 25).any(axis=(1, 2, 3)))
    flipped, erased = np.concatenate(flipped), np.concatenate(erased)
    assert abs(flipped.mean() - 0.5) < 0.1
    assert abs(erased.mean() - 0.5) < 0.1
    assert abs(np.corrcoef(flipped, erased)[0, 1]) < 0.2


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
    options = Augmentation(**EVERYTHING)
    outputs = jax.eval_shape(
        partial(augment_batch, augmentation=options),
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
