"""Operations against slow loops and their exact properties; how policies draw them."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.augmentation.auto_augment import (
    RAND_OPERATIONS,
    WIDE_OPERATIONS,
    apply_policy,
    draw_operations,
)
from bottleneck_transformer_flax.augmentation.config import Augmentation
from reference import augmentation as oracle

SHAPES = [(7, 12), (12, 7), (9, 9), (1, 1), (1, 6), (5, 1)]
COLOURS = ["color", "contrast", "brightness", "sharpness"]
PAPER = ["identity", "auto_contrast", "equalize", "rotate", "solarize", "color", "posterize"]
PAPER += [*COLOURS[1:], "shear_x", "shear_y", "translate_x", "translate_y"]
UNSIGNED = {"identity", "auto_contrast", "equalize", "solarize", "posterize"}
TABLES = pytest.mark.parametrize("table", [RAND_OPERATIONS, WIDE_OPERATIONS], ids=["rand", "wide"])


def noise(height, width, lowest=0, highest=255):
    pixels = np.random.default_rng(1).integers(lowest, highest, (height, width, 3), endpoint=True)
    return pixels.astype(np.uint8)


def applied(name, pixels, amount=0.0, table=WIDE_OPERATIONS):
    """By the wide table translations are in pixels."""
    image = table[name].apply(Image.fromarray(pixels), amount)
    assert (image.mode, image.size) == ("RGB", pixels.shape[1::-1])
    return np.asarray(image)


def assert_close(found, expected, atol=1):
    """Pillow rounds at the end, or cuts off after the point, or both: at most 1 by default."""
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotate_and_shear_interpolate(shape):
    pixels = noise(*shape)
    for degrees in (-135.0, -37.0, 3.7, 60.0):
        assert_close(applied("rotate", pixels, degrees), oracle.rotated(pixels, degrees))
    np.testing.assert_array_equal(applied("rotate", pixels, 180.0), pixels[::-1, ::-1])
    for slope in (-0.99, -0.21, 0.13, 0.6):
        across = oracle.sampled(pixels, lambda x, y, slope=slope: (x + slope * y, y))
        assert_close(applied("shear_x", pixels, slope), across)
        down = oracle.sampled(pixels, lambda x, y, slope=slope: (x, y + slope * x))
        assert_close(applied("shear_y", pixels, slope), down)
    square = noise(9, 9)
    np.testing.assert_array_equal(applied("rotate", square, 90.0), np.rot90(square))


@pytest.mark.parametrize(
    ("shape", "name", "amount", "right", "down", "table"),
    [
        *(((7, 12), "translate_x", n + 0.4, n, 0, WIDE_OPERATIONS) for n in (-5, -1, 0, 3)),
        *(((12, 7), "translate_y", n - 0.4, 0, n, WIDE_OPERATIONS) for n in (-5, 0, 1, 6)),
        # By a share of the side.
        ((10, 20), "translate_x", 0.3, 6, 0, RAND_OPERATIONS),
        ((10, 20), "translate_y", -0.3, 0, -3, RAND_OPERATIONS),
        # A row or column is left.
        ((4, 6), "translate_x", 32.0, 5, 0, WIDE_OPERATIONS),
        ((4, 6), "translate_y", -32.0, 0, -3, WIDE_OPERATIONS),
    ],
)
def test_translate_moves_whole_pixels(shape, name, amount, right, down, table):
    moved = oracle.sampled(noise(*shape), lambda x, y: (x - right, y - down))
    np.testing.assert_array_equal(applied(name, noise(*shape), amount, table), moved)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("change", [-0.99, -0.45, 0.3, 0.9, 1.8])
def test_enhancements_scale_a_distance(shape, change):
    pixels, without_colour = noise(*shape), oracle.grey(noise(*shape))
    origins = {
        "brightness": np.zeros(pixels.shape),
        "color": without_colour,
        # The mean is one of rounded greys, and rounded again.
        "contrast": np.full(pixels.shape, np.rint(np.rint(without_colour).mean())),
        "sharpness": oracle.smoothed(pixels),
    }
    for name, origin in origins.items():
        expected = oracle.scaled_distance(pixels, origin, 1 + change)
        # All but black is rounded first, which the factor enlarges.
        atol = 1 if name == "brightness" else 1 + abs(change) / 2
        assert_close(applied(name, pixels, change), expected, atol)
        lowest = applied(name, pixels, -0.99)
        np.testing.assert_array_equal(applied(name, pixels, -2.7), lowest)


def test_posterize_clears_the_lowest_bits_and_solarize_inverts_the_highest_levels():
    pixels = noise(16, 16)
    for bits in range(10):
        kept = 255 - (2 ** min(bits, 7) - 1)
        np.testing.assert_array_equal(applied("posterize", pixels, bits + 0.3), pixels & kept)
    for levels in (0, 1, 100, 255, 256, 600):
        expected = np.where(pixels >= 256 - levels, 255 - pixels, pixels)
        np.testing.assert_array_equal(applied("solarize", pixels, levels + 0.4), expected)


def test_auto_contrast_stretches_and_equalize_evens_out():
    for shape in SHAPES:
        for pixels in (noise(*shape, 60, 140), noise(*shape), np.full((*shape, 3), 77, np.uint8)):
            assert_close(applied("auto_contrast", pixels), oracle.stretched(pixels))
    even = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for pixels in (noise(30, 25, 60, 140), noise(25, 30) // 5, noise(3, 2), noise(1, 1), even):
        np.testing.assert_array_equal(applied("equalize", pixels), oracle.equalized(pixels))
    np.testing.assert_array_equal(applied("equalize", even), even)


@TABLES
def test_no_amount_is_no_change_and_thrice_the_full_amount_leaves_something(table):
    large = noise(20, 26)
    for name, (_, full, signed) in table.items():
        assert signed == (name not in UNSIGNED)
        for shape in () if name in ("auto_contrast", "equalize") else SHAPES:
            pixels = noise(*shape)
            np.testing.assert_array_equal(applied(name, pixels, 0.0, table), pixels)
        for sign in (-1, 1) if signed else (1,):
            found = applied(name, large, 3 * sign * full, table)
            assert len(np.unique(found[..., 0])) > 1
    np.testing.assert_array_equal(applied("identity", large, 0.7, table), large)


def test_operations_and_ranges_are_those_of_the_papers():
    """At full strength: AutoAugment's ranges, and the wide ones."""
    full = {name: operation.full for name, operation in RAND_OPERATIONS.items()}
    wide = {name: operation.full for name, operation in WIDE_OPERATIONS.items()}
    assert list(full) == list(wide) == PAPER
    for name in PAPER[:-2]:
        assert RAND_OPERATIONS[name].apply is WIDE_OPERATIONS[name].apply
    shares = [full.pop(f"translate_{axis}") for axis in "xy"]
    assert shares == pytest.approx([0.4532, 0.4532], abs=1e-4)
    colours = dict.fromkeys(COLOURS, 0.9)
    shears = {"shear_x": 0.3, "shear_y": 0.3}
    none = dict.fromkeys(("identity", "auto_contrast", "equalize"), 0.0)
    both = {"solarize": 256.0} | none
    assert full == {"rotate": 30.0, "posterize": 4.0} | both | colours | shears
    assert wide == {"rotate": 135.0, "posterize": 6.0, "translate_x": 32.0, "translate_y": 32.0} | (
        both | dict.fromkeys([*colours, *shears], 0.99)
    )


def assert_uniform(counts, options):
    """Pearson's chi-square within six standard deviations of its mean."""
    assert set(counts) == set(options)
    expected = sum(counts.values()) / len(options)
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(options) - 1
    assert statistic <= freedom + 6 * np.sqrt(2 * freedom)


def test_rand_draws_operations_and_signs_evenly():
    policy = Augmentation(policy="rand", policy_layers=3, policy_magnitude=15.0)
    rng = np.random.default_rng(0)
    draws = [draw_operations(policy, rng) for _ in range(5000)]
    assert {len(draw) for draw in draws} == {3}
    for layer in range(3):
        assert_uniform(Counter(draw[layer][0] for draw in draws), PAPER)
    # What is drawn first says nothing of what is drawn second.
    pairs = Counter((draw[0][0], draw[1][0]) for draw in draws)
    assert_uniform(pairs, [(first, second) for first in PAPER for second in PAPER])
    for name, operation in RAND_OPERATIONS.items():
        amounts = Counter(amount for draw in draws for drawn, amount in draw if drawn == name)
        size = 1.5 * operation.full
        assert_uniform(amounts, [-size, size] if operation.signed else [size])


def test_trivial_draws_one_operation_of_any_strength():
    # Layers and magnitude are for the other policy alone.
    policy = Augmentation(policy="trivial", policy_layers=5, policy_magnitude=1.0)
    rng = np.random.default_rng(0)
    draws = [draw_operations(policy, rng) for _ in range(20000)]
    assert {len(draw) for draw in draws} == {1}
    assert_uniform(Counter(draw[0][0] for draw in draws), PAPER)
    for name in PAPER[3:]:
        amounts = [draw[0][1] / WIDE_OPERATIONS[name].full for draw in draws if draw[0][0] == name]
        levels = Counter(round(30 * abs(amount), 9) for amount in amounts)
        assert_uniform(levels, range(31))
        signs = Counter(float(np.sign(amount)) for amount in amounts if amount)
        assert_uniform(signs, [1.0] if name in UNSIGNED else [-1.0, 1.0])


@pytest.mark.parametrize("policy", ["rand", "trivial"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_policy_applies_what_it_draws_in_order(policy, shape):
    augmentation = Augmentation(policy=policy, policy_layers=3, policy_magnitude=12.0)
    table = RAND_OPERATIONS if policy == "rand" else WIDE_OPERATIONS
    for seed in range(40):
        image = expected = Image.fromarray(noise(*shape))
        for operation, amount in draw_operations(augmentation, np.random.default_rng(seed)):
            expected = table[operation].apply(expected, amount)
        assert apply_policy(image, augmentation, np.random.default_rng(seed)) == expected


def test_none_gives_the_image_itself_and_draws_nothing():
    image, rng = Image.fromarray(noise(4, 5)), np.random.default_rng(0)
    assert apply_policy(image, Augmentation(), rng) is image
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
