"""Geometry against a plain two-step oracle; augmentations as their definitions say."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from bottleneck_transformer_flax.augmentation.auto_augment import apply_policy
from bottleneck_transformer_flax.augmentation.image import (
    Augmentation,
    EvaluationTransform,
    TrainingTransform,
    random_box,
    shift,
)
from bottleneck_transformer_flax.decoding import DecodedImage, EncodedImage
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.preprocessing import Preprocessing

SIDES = st.integers(1, 40)


def noise(height: int, width: int, lowest: int = 0, highest: int = 255) -> Image.Image:
    pixels = np.random.default_rng(0).integers(lowest, highest, (height, width, 3), endpoint=True)
    return Image.fromarray(pixels.astype(np.uint8))


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(SIDES, SIDES),
    size=st.tuples(SIDES, SIDES),
    crop=st.sampled_from([1.0, 0.95, 0.875, 0.5]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
)
@example(shape=(1, 20000), size=(40, 40), crop=1.0, interpolation="bilinear")
@example(shape=(7, 11), size=(7, 11), crop=1.0, interpolation="bicubic")
@example(shape=(14, 14), size=(7, 7), crop=0.5, interpolation="nearest")
def test_evaluation_is_resize_then_crop(shape, size, crop, interpolation):
    """The documented geometry, one step after the other."""
    record = Preprocessing(size=size, crop=crop, interpolation=interpolation)
    # Little contrast: where a filter overshoots [0, 255] after its first pass, Pillow cuts off,
    # and which pass is first depends on the sizes.
    image = noise(*shape, 100, 155)
    target = round(size[0] / crop), round(size[1] / crop)
    scale = max(target[0] / image.height, target[1] / image.width)
    resized = image.resize(
        (max(target[1], round(image.width * scale)), max(target[0], round(image.height * scale))),
        Image.Resampling[interpolation.upper()],
    )
    top, left = (resized.height - size[0]) // 2, (resized.width - size[1]) // 2
    expected = np.asarray(resized)[top : top + size[0], left : left + size[1]]
    found = EvaluationTransform(record)(DecodedImage(image))
    assert found.shape == (*size, 3)
    # Each pass rounds to 8 bits, and the order of the passes may differ: at most 2. An image of
    # the resized size is only cut.
    atol = 0 if resized.size == image.size else 2
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=atol)


def training(crop, size=(16, 20), **options) -> TrainingTransform:
    return TrainingTransform(Preprocessing(size=size, crop=1.0), Augmentation(crop=crop, **options))


@pytest.mark.parametrize("policy", ["none", "rand"])
@pytest.mark.parametrize("crop", ["none", "shift", "resized"])
def test_an_image_is_cropped_then_changed_by_the_policy_then_shifted(crop, policy):
    """From the generator alone, also after pickling."""
    for size, shape in (((16, 20), (50, 60)), ((9, 5), (3, 50)), ((1, 3), (1, 1))):
        shift_pixels = min(2, min(size) - 1)
        options = {"policy": policy, "policy_magnitude": 7.0, "shift_pixels": shift_pixels}
        transform, image = training(crop, size, **options), noise(*shape)
        rng = np.random.default_rng(4)
        if crop == "resized":
            box = random_box(shape, size[1] / size[0], transform.augmentation, rng)
            cropped = image.resize(size[::-1], Image.Resampling.BICUBIC, box)
        else:
            cropped = EvaluationTransform(transform.preprocessing).centre(image)
        expected = np.asarray(apply_policy(cropped, transform.augmentation, rng))
        if policy == "none" or shape == (50, 60):
            assert np.array_equal(expected, np.asarray(cropped)) == (policy == "none")
        if crop == "shift":
            expected = shift(expected, shift_pixels, rng)
        copy = pickle.loads(pickle.dumps(transform))
        found = copy(DecodedImage(image), np.random.default_rng(4))
        assert (found.shape, found.dtype) == ((*size, 3), np.uint8)
        np.testing.assert_array_equal(found, expected)


def test_shift_moves_over_zeros_evenly():
    """Compare with the definition, and count the offsets."""
    pixels = np.asarray(noise(5, 9)) | 1  # Nothing in the image is zero.
    padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)))
    windows = {
        padded[2 - y : 7 - y, 2 - x : 11 - x].tobytes(): (y, x)
        for y in range(-2, 3)
        for x in range(-2, 3)
    }
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(windows.values(), 0)
    for _ in range(2500):
        counts[windows[shift(pixels, 2, rng).tobytes()]] += 1
    assert len(counts) == 25
    assert 60 < min(counts.values()) <= max(counts.values()) < 145
    np.testing.assert_array_equal(shift(pixels, 0, rng), pixels)


def test_random_box_has_the_area_and_shape_asked_for():
    rng = np.random.default_rng(0)
    options = Augmentation(crop="resized", min_scale=0.2, aspect_ratio=(0.5, 2.0))
    aspect = 0.8  # The model's input, to whose shape the ratio is relative.
    boxes = np.array([random_box((300, 400), aspect, options, rng) for _ in range(3000)])
    left, top, right, bottom = boxes.T
    assert left.min() == top.min() == 0
    assert (right.max(), bottom.max()) == (400, 300)
    area = (right - left) * (bottom - top) / (300 * 400)
    ratio = (right - left) / (bottom - top) / aspect
    assert 0.198 < area.min() < 0.21
    assert 0.95 < area.max() <= 1
    assert 0.49 < ratio.min() < 0.55
    assert 1.8 < ratio.max() < 2.03
    # Small areas always fit: there the area and the logarithm of the ratio are uniform.
    small = area < 0.3
    assert abs(np.log(ratio[small]).mean()) < 0.1
    assert abs(area[small].mean() - 0.25) < 0.01


@pytest.mark.parametrize(
    ("size", "expected"),
    [((10, 1000), (493, 0, 506, 10)), ((1000, 9), (0, 494, 9, 506)), ((1, 1), (0, 0, 1, 1))],
)
def test_random_box_falls_back_to_the_centre(size, expected):
    options = Augmentation(crop="resized", min_scale=1.0)
    found = random_box(size, 1.0, options, np.random.default_rng(0))
    assert np.abs(np.subtract(found, expected)).max() <= 1
    assert found[2] <= size[1]
    assert found[3] <= size[0]


class Watched(DecodedImage):
    """An image that notes the reduction it is decoded at."""

    def decode(self, reduction: int = 1) -> Image.Image:
        self.reduction = reduction
        return super().decode().reduce(reduction)


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    target=st.tuples(SIDES, SIDES),
    seed=st.integers(0, 1000),
)
def test_training_decodes_no_larger_than_the_box_needs_and_evaluation_whole(size, target, seed):
    transform = training("resized", target, shift_pixels=0)
    image, rng = Watched(Image.new("RGB", size[::-1])), np.random.default_rng(seed)
    left, top, right, bottom = random_box(size, target[1] / target[0], transform.augmentation, rng)
    assert 0 <= left < right <= size[1]
    assert 0 <= top < bottom <= size[0]
    assert transform(image, np.random.default_rng(seed)).shape == (*target, 3)
    enough = [
        n
        for n in (1, 2, 4, 8)
        if (bottom - top) / n >= target[0] and (right - left) / n >= target[1]
    ]
    assert image.reduction == max(enough, default=1)
    EvaluationTransform(transform.preprocessing)(image)
    assert image.reduction == 1


def test_large_parts_are_decoded_at_a_fraction_and_look_the_same():
    rows, columns = np.mgrid[:400, :640]
    waves = [127 + 90 * np.sin(rows / period + columns / 70) for period in (30, 50, 90)]
    file = io.BytesIO()
    Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).save(file, "JPEG", quality=95)
    encoded = EncodedImage(file.getvalue(), "waves")
    whole = DecodedImage(encoded.decode())
    # The parts are 1 to 16 times as large as the model's input.
    transform = training("resized", (24, 40), min_scale=0.004)
    for seed in range(40):
        found = transform(encoded, np.random.default_rng(seed)).astype(int)
        plain = transform(whole, np.random.default_rng(seed)).astype(int)
        assert np.abs(found - plain).mean() < 2


def test_shift_must_leave_something_in_sight():
    with pytest.raises(ConfigError, match=r"shift_pixels is 5; .*\(16, 5\)"):
        training("shift", size=(16, 5), shift_pixels=5)
    training("none", size=(16, 5), shift_pixels=5)
