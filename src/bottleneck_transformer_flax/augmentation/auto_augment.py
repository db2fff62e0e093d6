"""RandAugment and TrivialAugment: a few operations drawn at random for each image.

RandAugment draws several operations of one magnitude; TrivialAugment draws one operation of a
random strength. All operations keep the size of an RGB image, and their effect grows with the
amount; an amount of 0 changes nothing, except for ``auto_contrast`` and ``equalize``, which have no
amount.

Uncovered pixels become grey (``FILL``), as in the authors' code for ImageNet. Rotations and shears
interpolate bilinearly: the nearest pixel would make edges jagged, and a bicubic filter takes longer
for pixels that are rounded again later. Translations are by whole pixels.

Amounts are limited so that something is left of the image: one row or column after a translation, a
factor of 0.01, one bit a channel.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from bottleneck_transformer_flax.augmentation.config import Augmentation

FILL = (128, 128, 128)
FULL_MAGNITUDE = 10
"""The magnitude of RandAugment at which an operation has its whole amount."""
STRENGTHS = 31
"""Number of strengths that TrivialAugment chooses from, from 0 to the whole amount."""

_LOWEST_FACTOR = 0.01


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Rotate about the centre, counter-clockwise."""
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=FILL)


def shear_x(image: Image.Image, slope: float) -> Image.Image:
    """Move each row left by ``slope`` times its distance from the top edge."""
    return _affine(image, (1.0, slope, 0.0, 0.0, 1.0, 0.0))


def shear_y(image: Image.Image, slope: float) -> Image.Image:
    """Move each column up by ``slope`` times its distance from the left edge."""
    return _affine(image, (1.0, 0.0, 0.0, slope, 1.0, 0.0))


def translate(image: Image.Image, right: float, down: float) -> Image.Image:
    """Move by whole pixels, so far that at least one row and column stay in sight."""
    height, width = image.height, image.width
    moved = Image.new(image.mode, image.size, FILL)
    columns = max(1 - width, min(width - 1, round(right)))
    rows = max(1 - height, min(height - 1, round(down)))
    moved.paste(image, (columns, rows))
    return moved


def enhance(image: Image.Image, change: float, enhancer: type) -> Image.Image:
    """Scale the distance from the enhancer's origin by ``1 + change``.

    The origin of ``Color`` is the image in grey, of ``Contrast`` its mean grey, of ``Brightness``
    black, and of ``Sharpness`` the image smoothed over 3×3 pixels.
    """
    enhanced: Image.Image = enhancer(image).enhance(max(_LOWEST_FACTOR, 1 + change))
    return enhanced


def posterize(image: Image.Image, bits: float) -> Image.Image:
    """Clear the lowest bits of each 8-bit value, all but one at most."""
    return ImageOps.posterize(image, max(1, 8 - round(bits)))


def solarize(image: Image.Image, levels: float) -> Image.Image:
    """Invert the values in the highest ``levels`` of 256."""
    return ImageOps.solarize(image, max(0, 256 - round(levels)))


class Operation(NamedTuple):
    """An operation of a policy, and its range.

    Attributes:
        apply: changes an image by an amount.
        full: amount at full strength.
        signed: whether half of the amounts are negative.
    """

    apply: Callable[[Image.Image, float], Image.Image]
    full: float = 0.0
    signed: bool = False


RAND_OPERATIONS = {
    "identity": Operation(lambda image, _: image),
    "auto_contrast": Operation(lambda image, _: ImageOps.autocontrast(image)),
    "equalize": Operation(lambda image, _: ImageOps.equalize(image)),
    "rotate": Operation(rotate, 30.0, signed=True),
    "solarize": Operation(solarize, 256.0),
    "color": Operation(partial(enhance, enhancer=ImageEnhance.Color), 0.9, signed=True),
    "posterize": Operation(posterize, 4.0),
    "contrast": Operation(partial(enhance, enhancer=ImageEnhance.Contrast), 0.9, signed=True),
    "brightness": Operation(partial(enhance, enhancer=ImageEnhance.Brightness), 0.9, signed=True),
    "sharpness": Operation(partial(enhance, enhancer=ImageEnhance.Sharpness), 0.9, signed=True),
    "shear_x": Operation(shear_x, 0.3, signed=True),
    "shear_y": Operation(shear_y, 0.3, signed=True),
    # A share of the side: AutoAugment moves its images of 331 pixels by up to 150.
    "translate_x": Operation(
        lambda image, share: translate(image, share * image.width, 0.0), 150 / 331, signed=True
    ),
    "translate_y": Operation(
        lambda image, share: translate(image, 0.0, share * image.height), 150 / 331, signed=True
    ),
}
"""The operations of RandAugment, with the ranges of AutoAugment (Cubuk et al. 2018, arXiv
1805.09501)."""

_WIDE_AMOUNTS = {"rotate": 135.0, "posterize": 6.0} | dict.fromkeys(
    ("color", "contrast", "brightness", "sharpness", "shear_x", "shear_y"), 0.99
)
WIDE_OPERATIONS = {
    name: operation._replace(full=_WIDE_AMOUNTS.get(name, operation.full))
    for name, operation in RAND_OPERATIONS.items()
} | {
    "translate_x": Operation(lambda image, right: translate(image, right, 0.0), 32.0, signed=True),
    "translate_y": Operation(
        lambda image, pixels: translate(image, 0.0, pixels), 32.0, signed=True
    ),
}
"""The same operations with the wide ranges of TrivialAugment."""


def apply_policy(
    image: Image.Image, augmentation: Augmentation, rng: np.random.Generator
) -> Image.Image:
    """Draw operations for an RGB image and apply them."""
    operations = RAND_OPERATIONS if augmentation.policy == "rand" else WIDE_OPERATIONS
    for name, amount in draw_operations(augmentation, rng):
        image = operations[name].apply(image, amount)
    return image


def draw_operations(
    augmentation: Augmentation, rng: np.random.Generator
) -> list[tuple[str, float]]:
    """Draw names and amounts of the operations for one image, in the order of application.

    "rand" is RandAugment (Cubuk et al. 2019, arXiv 1909.13719): ``policy_layers`` operations, each
    drawn uniformly, with repetition. The magnitude is on the paper's scale, where 10 stands for
    AutoAugment's full ranges. Amounts stay proportional to it up to 30, as in the paper's
    experiments: ResNet-RS's 20 rotates by up to 60°. Here every operation grows with the magnitude,
    and 0 changes nothing. In the authors' code for TPUs solarize and posterize become weaker with
    it, colours are scaled by 0.1 to 1.9 and more, and invert, cutout and solarize-add are drawn as
    well.

    "trivial" is TrivialAugment Wide (Müller & Hutter 2021, arXiv 2103.10158): one operation drawn
    uniformly, with one of 31 strengths drawn uniformly. Translations reach 32 pixels whatever the
    size. Colour factors are ``1 ± 0.99 · strength``, so that strength 0 changes nothing; in the
    authors' code they grow with the strength from 0.01 to 2.
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
    """Draw the name of an operation, and the sign of its amount at this strength."""
    name = list(operations)[rng.integers(len(operations))]
    operation = operations[name]
    amount = operation.full * strength
    return name, -amount if operation.signed and rng.random() < 0.5 else amount


def _affine(image: Image.Image, source: tuple[float, ...]) -> Image.Image:
    """The image whose pixel (x, y) is this one's at (a·x + b·y + c, d·x + e·y + f)."""
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, affine, source, bilinear, fillcolor=FILL)
