"""Augmentation policies: a few operations drawn at random for each image.

RandAugment draws several operations of one magnitude; TrivialAugment draws one operation of a
random strength. All operations keep the size of an RGB image and grow with their amount; by an
amount of 0 all but ``auto_contrast`` and ``equalize`` leave the image as it is.

What comes into view is grey (``FILL``), as in the authors' code for ImageNet. Rotations and shears
interpolate bilinearly: the nearest pixel would make edges jagged, and a bicubic filter takes longer
for pixels that are rounded again later. Translations are by whole pixels.

An amount that would leave nothing of the image stops just before: a translation by all but one row
or column, a factor of 0.01, one bit a channel. Solarizing stops when all values are inverted.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from bottleneck_transformer_flax.augmentation.config import Augmentation

FILL = (128, 128, 128)
FULL_MAGNITUDE = 10
"""The magnitude of RandAugment at which an operation has its whole amount."""
STRENGTHS = 31
"""Strengths that TrivialAugment chooses from, from none to the whole amount."""

_LOWEST_FACTOR = 0.01


def identity(image: Image.Image, amount: float) -> Image.Image:
    """The image itself."""
    return image


def auto_contrast(image: Image.Image, amount: float) -> Image.Image:
    """Stretch each channel linearly to [0, 255]; there is no amount of it."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, amount: float) -> Image.Image:
    """Make the histogram of each channel as even as can be; there is no amount of it."""
    return ImageOps.equalize(image)


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Rotate about the centre, counter-clockwise."""
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=FILL)


def shear_x(image: Image.Image, slope: float) -> Image.Image:
    """Move each row left by ``slope`` times its distance from the top edge."""
    return _affine(image, (1.0, slope, 0.0, 0.0, 1.0, 0.0))


def shear_y(image: Image.Image, slope: float) -> Image.Image:
    """Move each column up by ``slope`` times its distance from the left edge."""
    return _affine(image, (1.0, 0.0, 0.0, slope, 1.0, 0.0))


def translate_x(image: Image.Image, pixels: float) -> Image.Image:
    """Move to the right by the nearest whole number of pixels."""
    return _moved(image, _within(pixels, image.width), 0)


def translate_y(image: Image.Image, pixels: float) -> Image.Image:
    """Move down by the nearest whole number of pixels."""
    return _moved(image, 0, _within(pixels, image.height))


def translate_x_by_share(image: Image.Image, share: float) -> Image.Image:
    """Move to the right by a share of the width."""
    return translate_x(image, share * image.width)


def translate_y_by_share(image: Image.Image, share: float) -> Image.Image:
    """Move down by a share of the height."""
    return translate_y(image, share * image.height)


def color(image: Image.Image, change: float) -> Image.Image:
    """Scale the distance from the image without colours by ``1 + change``."""
    return ImageEnhance.Color(image).enhance(_factor(change))


def contrast(image: Image.Image, change: float) -> Image.Image:
    """Scale the distance from the image's mean grey by ``1 + change``."""
    return ImageEnhance.Contrast(image).enhance(_factor(change))


def brightness(image: Image.Image, change: float) -> Image.Image:
    """Scale all values by ``1 + change``."""
    return ImageEnhance.Brightness(image).enhance(_factor(change))


def sharpness(image: Image.Image, change: float) -> Image.Image:
    """Scale the distance from the image smoothed over 3×3 pixels by ``1 + change``."""
    return ImageEnhance.Sharpness(image).enhance(_factor(change))


def posterize(image: Image.Image, bits: float) -> Image.Image:
    """Set that many of the lowest of the 8 bits of each value to zero."""
    return ImageOps.posterize(image, max(1, 8 - round(bits)))


def solarize(image: Image.Image, levels: float) -> Image.Image:
    """Invert the values among the highest ``levels`` of the 256."""
    return ImageOps.solarize(image, max(0, 256 - round(levels)))


class Operation(NamedTuple):
    """An operation of a policy, and how far it goes.

    Attributes:
        apply: an image and an amount to an image.
        full: the amount at full strength.
        signed: whether the amount is negative half of the time.
    """

    apply: Callable[[Image.Image, float], Image.Image]
    full: float = 0.0
    signed: bool = False


RAND_OPERATIONS = {
    "identity": Operation(identity),
    "auto_contrast": Operation(auto_contrast),
    "equalize": Operation(equalize),
    "rotate": Operation(rotate, 30.0, signed=True),
    "solarize": Operation(solarize, 256.0),
    "color": Operation(color, 0.9, signed=True),
    "posterize": Operation(posterize, 4.0),
    "contrast": Operation(contrast, 0.9, signed=True),
    "brightness": Operation(brightness, 0.9, signed=True),
    "sharpness": Operation(sharpness, 0.9, signed=True),
    "shear_x": Operation(shear_x, 0.3, signed=True),
    "shear_y": Operation(shear_y, 0.3, signed=True),
    # AutoAugment's 150 pixels of the 331 that its images have.
    "translate_x": Operation(translate_x_by_share, 150 / 331, signed=True),
    "translate_y": Operation(translate_y_by_share, 150 / 331, signed=True),
}
"""The operations of RandAugment, with the ranges of AutoAugment (Cubuk et al. 2018, arXiv
1805.09501)."""

WIDE_OPERATIONS = {
    "identity": Operation(identity),
    "auto_contrast": Operation(auto_contrast),
    "equalize": Operation(equalize),
    "rotate": Operation(rotate, 135.0, signed=True),
    "solarize": Operation(solarize, 256.0),
    "color": Operation(color, 0.99, signed=True),
    "posterize": Operation(posterize, 6.0),
    "contrast": Operation(contrast, 0.99, signed=True),
    "brightness": Operation(brightness, 0.99, signed=True),
    "sharpness": Operation(sharpness, 0.99, signed=True),
    "shear_x": Operation(shear_x, 0.99, signed=True),
    "shear_y": Operation(shear_y, 0.99, signed=True),
    "translate_x": Operation(translate_x, 32.0, signed=True),
    "translate_y": Operation(translate_y, 32.0, signed=True),
}
"""The same operations with the wide ranges of TrivialAugment."""


def apply_policy(
    image: Image.Image, augmentation: Augmentation, rng: np.random.Generator
) -> Image.Image:
    """An RGB image of the same size, changed by the operations drawn for it."""
    operations = RAND_OPERATIONS if augmentation.policy == "rand" else WIDE_OPERATIONS
    for name, amount in draw_operations(augmentation, rng):
        image = operations[name].apply(image, amount)
    return image


def draw_operations(
    augmentation: Augmentation, rng: np.random.Generator
) -> list[tuple[str, float]]:
    """Names and amounts of the operations for one image, in the order of application.

    "rand" is RandAugment (Cubuk et al. 2019, arXiv 1909.13719): ``policy_layers`` operations, each
    drawn uniformly and always applied, with repetition. The magnitude is on the paper's scale,
    where 10 is the whole of AutoAugment's ranges. Amounts are proportional to it beyond 10 too, as
    in the paper's experiments up to 30, so that ResNet-RS's 10 to 20 extrapolate: 20 rotates by up
    to 60°. Here every operation grows with the magnitude, and 0 changes nothing. In the authors'
    code for TPUs solarize and posterize become weaker with it, colours go from 0.1 times to 1.9
    times and more, and invert, cutout and solarize-add are drawn as well.

    "trivial" is TrivialAugment Wide (Müller & Hutter 2021, arXiv 2103.10158): one operation drawn
    uniformly, with one of 31 strengths drawn uniformly. Translations reach 32 pixels whatever the
    size. Colour factors are ``1 ± 0.99 · strength``, so that strength 0 changes nothing; the
    authors' grow with the strength from 0.01 to 2.
    """
    if augmentation.policy == "rand":
        strength = augmentation.policy_magnitude / FULL_MAGNITUDE
        return [_draw(RAND_OPERATIONS, strength, rng) for _ in range(augmentation.policy_layers)]
    if augmentation.policy == "trivial":
        return [_draw(WIDE_OPERATIONS, int(rng.integers(STRENGTHS)) / (STRENGTHS - 1), rng)]
    return []


def _draw(
    operations: dict[str, Operation], strength: float, rng: np.random.Generator
) -> tuple[str, float]:
    """One of the operations, and its amount at this share of full strength."""
    name = list(operations)[rng.integers(len(operations))]
    operation = operations[name]
    amount = operation.full * strength
    if operation.signed and rng.random() < 0.5:
        amount = -amount
    return name, amount


def _affine(image: Image.Image, source: tuple[float, ...]) -> Image.Image:
    """The image whose pixel (x, y) is that at (a·x + b·y + c, d·x + e·y + f) of this one."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        source,
        Image.Resampling.BILINEAR,
        fillcolor=FILL,
    )


def _moved(image: Image.Image, right: int, down: int) -> Image.Image:
    moved = Image.new(image.mode, image.size, FILL)
    moved.paste(image, (right, down))
    return moved


def _within(pixels: float, side: int) -> int:
    """The nearest whole number of pixels that leaves one row or column in sight."""
    return max(1 - side, min(side - 1, round(pixels)))


def _factor(change: float) -> float:
    return max(_LOWEST_FACTOR, 1 + change)
