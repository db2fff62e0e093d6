"""Operations against slow loops and their exact properties; how policies draw them."""

import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.augmentation.auto_augment import (
    RAND_OPERATIONS,
    WIDE_OPERATIONS,
    apply_policy,
    auto_contrast,
    brightness,
    color,
    contrast,
    draw_operations,
    equalize,
    identity,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_x_by_share,
    translate_y,
    translate_y_by_share,
)
from bottleneck_transformer_flax.augmentation.config import Augmentation
from reference import augmentation as oracle

SHAPES = [(7, 12), (12, 7), (9, 9), (1, 1), (1, 6), (5, 1)]
PAPER = [
    "identity",
    "auto_contrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]
UNSIGNED = {"identity", "auto_contrast", "equalize", "solarize", "posterize"}
ALL_OPERATIONS = [
    pytest.param(table, name, id=f"{policy}-{name}")
    for policy, table in (("rand", RAND_OPERATIONS), ("trivial", WIDE_OPERATIONS))
    for name in table
]


def noise(height, width, lowest=0, highest=255):
    pixels = np.random.default_rng(1).integers(lowest, highest, (height, width, 3), endpoint=True)
    return pixels.astype(np.uint8)


def applied(operation, pixels, *arguments):
    found = operation(Image.fromarray(pixels), *(arguments or (0.0,)))
    assert found.mode == "RGB"
    found = np.asarray(found)
    assert found.shape == pixels.shape
    return found


def assert_close(found, expected, atol=1):
    """Pillow rounds at the end, or cuts off after the point, or both: at most 1 by default."""
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("degrees", [-135.0, -37.0, 3.7, 60.0])
def test_rotate(shape, degrees):
    pixels = noise(*shape)
    assert_close(applied(rotate, pixels, degrees), oracle.rotated(pixels, degrees))


def test_rotate_by_right_angles_is_exact():
    square, wide = noise(9, 9), noise(6, 10)
    np.testing.assert_array_equal(applied(rotate, square, 90.0), np.rot90(square))
    np.testing.assert_array_equal(applied(rotate, square, -90.0), np.rot90(square, -1))
    np.testing.assert_array_equal(applied(rotate, wide, 180.0), wide[::-1, ::-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slope", [-0.99, -0.21, 0.13, 0.6])
def test_shear(shape, slope):
    pixels = noise(*shape)
    across = oracle.sampled(pixels, lambda x, y: (x + slope * y, y))
    assert_close(applied(shear_x, pixels, slope), across)
    down = oracle.sampled(pixels, lambda x, y: (x, y + slope * x))
    assert_close(applied(shear_y, pixels, slope), down)


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (9, 9)])
@pytest.mark.parametrize("pixels_moved", [-5, -1, 0, 3, 6])
def test_translate_moves_pixels_exactly(shape, pixels_moved):
    pixels = noise(*shape)
    right = oracle.translated(pixels, pixels_moved, 0)
    np.testing.assert_array_equal(applied(translate_x, pixels, pixels_moved + 0.4), right)
    down = oracle.translated(pixels, 0, pixels_moved)
    np.testing.assert_array_equal(applied(translate_y, pixels, pixels_moved - 0.4), down)


def test_translate_by_share_is_of_the_side():
    pixels = noise(10, 20)
    right = applied(translate_x_by_share, pixels, 0.3)
    np.testing.assert_array_equal(right, oracle.translated(pixels, 6, 0))
    down = applied(translate_y_by_share, pixels, -0.3)
    np.testing.assert_array_equal(down, oracle.translated(pixels, 0, -3))


def test_translate_leaves_a_row_or_column():
    pixels = noise(4, 6)
    right = applied(translate_x, pixels, 32.0)
    np.testing.assert_array_equal(right, oracle.translated(pixels, 5, 0))
    down = applied(translate_y, pixels, -32.0)
    np.testing.assert_array_equal(down, oracle.translated(pixels, 0, -3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("change", [-0.99, -0.45, 0.3, 0.9, 1.8])
def test_enhancements_scale_a_distance(shape, change):
    pixels, factor = noise(*shape), 1 + change
    # What the distance is from is rounded first, which the factor enlarges.
    atol = 1 + abs(change) / 2
    black = np.zeros(pixels.shape)
    assert_close(applied(brightness, pixels, change), oracle.scaled_distance(pixels, black, factor))
    without_colour = oracle.grey(pixels)
    found = applied(color, pixels, change)
    assert_close(found, oracle.scaled_distance(pixels, without_colour, factor), atol)
    # The mean is one of rounded greys, and rounded again.
    mean = np.full(pixels.shape, np.rint(np.rint(without_colour).mean()))
    found = applied(contrast, pixels, change)
    assert_close(found, oracle.scaled_distance(pixels, mean, factor), atol)
    found = applied(sharpness, pixels, change)
    assert_close(found, oracle.scaled_distance(pixels, oracle.smoothed(pixels), factor), atol)


def test_enhancements_do_not_go_beyond_their_lowest_factor():
    pixels = noise(8, 9)
    for operation in (color, contrast, brightness, sharpness):
        lowest = applied(operation, pixels, -0.99)
        np.testing.assert_array_equal(applied(operation, pixels, -2.7), lowest)


@pytest.mark.parametrize("bits", range(10))
def test_posterize_clears_the_lowest_bits(bits):
    pixels = noise(16, 16)
    kept = 255 - (2 ** min(bits, 7) - 1)
    np.testing.assert_array_equal(applied(posterize, pixels, bits + 0.3), pixels & kept)


@pytest.mark.parametrize("levels", [0, 1, 100, 255, 256, 600])
def test_solarize_inverts_the_highest_levels(levels):
    pixels = noise(16, 16)
    expected = np.where(pixels >= 256 - levels, 255 - pixels, pixels)
    np.testing.assert_array_equal(applied(solarize, pixels, levels + 0.4), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_auto_contrast(shape):
    for pixels in (noise(*shape, 60, 140), noise(*shape), np.full((*shape, 3), 77, np.uint8)):
        # Pillow cuts off after the point.
        assert_close(applied(auto_contrast, pixels), oracle.stretched(pixels))


def test_equalize():
    for pixels in (noise(30, 25, 60, 140), noise(25, 30) // 5, noise(3, 2), noise(1, 1)):
        np.testing.assert_array_equal(applied(equalize, pixels), oracle.equalized(pixels))
    even = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(applied(equalize, even), even)


def test_identity():
    np.testing.assert_array_equal(applied(identity, noise(3, 4), 0.7), noise(3, 4))


def test_opposite_amounts_are_mirror_images():
    pixels = noise(11, 14)
    mirrored, turned = pixels[:, ::-1], pixels[::-1]
    for operation, amount in ((rotate, 41.0), (shear_x, 0.4), (translate_x, 3.0)):
        other = applied(operation, np.ascontiguousarray(mirrored), -amount)[:, ::-1]
        assert_close(applied(operation, pixels, amount), other)
    for operation, amount in ((shear_y, 0.4), (translate_y, 3.0)):
        other = applied(operation, np.ascontiguousarray(turned), -amount)[::-1]
        assert_close(applied(operation, pixels, amount), other)


@pytest.mark.parametrize(("table", "name"), ALL_OPERATIONS)
def test_an_operation_does_what_it_is_called(table, name):
    by_name = globals()[name]
    share = table is RAND_OPERATIONS and name.startswith("translate")
    assert table[name].apply is (globals()[f"{name}_by_share"] if share else by_name)
    assert table[name].signed == (name not in UNSIGNED)


@pytest.mark.parametrize(("table", "name"), ALL_OPERATIONS)
def test_no_amount_is_no_change(table, name):
    if name in ("auto_contrast", "equalize"):
        return
    for shape in SHAPES:
        pixels = noise(*shape)
        np.testing.assert_array_equal(applied(table[name].apply, pixels), pixels)


@pytest.mark.parametrize(("table", "name"), ALL_OPERATIONS)
def test_something_is_left_of_an_image_at_thrice_the_full_amount(table, name):
    pixels = noise(20, 26)
    for sign in (-1, 1) if table[name].signed else (1,):
        found = applied(table[name].apply, pixels, 3 * sign * table[name].full)
        assert len(np.unique(found[..., 0])) > 1


def test_ranges():
    """At full strength: AutoAugment's ranges, and the wide ones."""
    full = {name: operation.full for name, operation in RAND_OPERATIONS.items()}
    wide = {name: operation.full for name, operation in WIDE_OPERATIONS.items()}
    assert list(full) == list(wide) == PAPER
    for name in ("color", "contrast", "brightness", "sharpness"):
        assert (full.pop(name), wide.pop(name)) == (0.9, 0.99)
    for name in ("identity", "auto_contrast", "equalize"):
        assert (full.pop(name), wide.pop(name)) == (0.0, 0.0)
    for axis in "xy":
        assert (full.pop(f"shear_{axis}"), wide.pop(f"shear_{axis}")) == (0.3, 0.99)
        assert full.pop(f"translate_{axis}") == pytest.approx(0.4532, abs=1e-4)
        assert wide.pop(f"translate_{axis}") == 32.0
    assert full == {"rotate": 30.0, "solarize": 256.0, "posterize": 4.0}
    assert wide == {"rotate": 135.0, "solarize": 256.0, "posterize": 6.0}


def policy_of(name, layers, magnitude):
    return Augmentation(policy=name, policy_layers=layers, policy_magnitude=magnitude)


def assert_uniform(counts, options):
    """Pearson's chi-square within six standard deviations of its mean."""
    assert set(counts) == set(options)
    expected = sum(counts.values()) / len(options)
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(options) - 1
    assert statistic <= freedom + 6 * np.sqrt(2 * freedom)


def test_rand_draws_operations_and_signs_evenly():
    policy, rng = (
        policy_of("rand", 3, 15.0),
        np.random.default_rng(0),
    )
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
    # Neither layers nor magnitude are of this policy.
    policy, rng = (
        policy_of("trivial", 5, 1.0),
        np.random.default_rng(0),
    )
    draws = [draw_operations(policy, rng) for _ in range(20000)]
    assert {len(draw) for draw in draws} == {1}
    assert_uniform(Counter(draw[0][0] for draw in draws), PAPER)
    for name in PAPER[3:]:
        amounts = [draw[0][1] / WIDE_OPERATIONS[name].full for draw in draws if draw[0][0] == name]
        levels = Counter(round(30 * abs(amount), 9) for amount in amounts)
        assert_uniform(levels, range(31))
        signs = Counter(float(np.sign(amount)) for amount in amounts if amount)
        assert_uniform(signs, [1.0] if name in UNSIGNED else [-1.0, 1.0])


def test_magnitude_zero_is_no_change_of_what_has_an_amount():
    policy, rng = (
        policy_of("rand", 4, 0.0),
        np.random.default_rng(0),
    )
    assert {abs(amount) for _ in range(100) for _, amount in draw_operations(policy, rng)} == {0.0}


@pytest.mark.parametrize("name", ["rand", "trivial"])
def test_a_policy_applies_what_it_draws_in_order(name):
    policy, pixels = (
        policy_of(name, 3, 12.0),
        noise(12, 17),
    )
    table = RAND_OPERATIONS if name == "rand" else WIDE_OPERATIONS
    for seed in range(40):
        expected = Image.fromarray(pixels)
        for operation, amount in draw_operations(policy, np.random.default_rng(seed)):
            expected = table[operation].apply(expected, amount)
        found = applied(apply_policy, pixels, policy, np.random.default_rng(seed))
        np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("name", ["rand", "trivial"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_policy_depends_on_the_generator_alone(name, shape):
    policy, pixels = Augmentation(policy=name), noise(*shape)
    original = pixels.copy()
    copy = pickle.loads(pickle.dumps(policy))
    results = set()
    for seed in range(60):
        first = applied(apply_policy, pixels, policy, np.random.default_rng(seed))
        np.testing.assert_array_equal(
            applied(apply_policy, pixels, copy, np.random.default_rng(seed)), first
        )
        results.add(first.tobytes())
    assert len(results) > (20 if min(shape) > 1 else 3)
    np.testing.assert_array_equal(pixels, original)


def test_none_gives_the_image_itself_and_draws_nothing():
    image, rng = Image.fromarray(noise(4, 5)), np.random.default_rng(0)
    assert apply_policy(image, Augmentation(), rng) is image
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
