"""Flips, random erasing, mixup and CutMix of a whole batch, on the device, in the jitted step.

Images are flipped, then erased, then mixed. Flips come first, so that the two images of a mixture
are flipped independently. Erasing comes before mixing, because targets count how much of each image
a mixture shows, and would still count what is erased afterwards.

Every function is pure: ``draw_…`` draws parameters of static shapes from a key, and the others
apply them through masks, so that a step compiles once. An image's partner is the one at the same
place from the other end of the batch. Random numbers are drawn for the whole batch, and are the
same however the batch is spread over devices.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.axes import Array, Bool, Float, Int

ERASED_AREA = (0.02, 1 / 3)
"""Lowest and highest fraction of the image's area that is erased."""
ERASED_ASPECT_RATIO = (0.3, 1 / 0.3)
"""Lowest and highest height / width of the erased box."""


class Boxes(NamedTuple):
    """A box in each image: rows in [top, bottom) and columns in [left, right), perhaps empty."""

    top: Int[Array, " b"]
    left: Int[Array, " b"]
    bottom: Int[Array, " b"]
    right: Int[Array, " b"]


class Mixture(NamedTuple):
    """Weights by which all images of a batch are mixed with their partners.

    Attributes:
        own: weight of the image itself, at each pixel.
        share: weight of its target, the mean of ``own``.
    """

    own: Float[Array, "h w"]
    share: Float[Array, ""]


def augment_batch(
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b classes"],
    valid: Bool[Array, " b"],
    key: Array,
    augmentation: Augmentation,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b classes"]]:
    """Flip, erase and mix, as the augmentation says; without any of these, what came in.

    Args:
        images: normalised model input.
        targets: one-hot rows, perhaps smoothed.
        valid: which rows are images; no other row is ever mixed into one.
        key: the only source of randomness. Each of the three has its own part of it, so that
            switching one on or off leaves the others as they are.
        augmentation: which of the three, and how strongly; what it says of single images is not
            read here.
    """
    count, height, width, _ = images.shape
    of_flips, of_boxes, of_noise, of_mixture = jax.random.split(key, 4)
    if augmentation.flip:
        images = flip(images, draw_flips(of_flips, count))
    if augmentation.erasing_probability > 0:
        boxes = draw_erased_boxes(
            of_boxes, count, (height, width), augmentation.erasing_probability
        )
        images = erase(images, boxes, jax.random.normal(of_noise, images.shape, images.dtype))
    if augmentation.mixup_alpha > 0 or augmentation.cutmix_alpha > 0:
        mixture = draw_mixture(of_mixture, (height, width), augmentation)
        images, targets = mix(images, targets, valid, mixture)
    return images, targets


def draw_flips(key: Array, count: int) -> Bool[Array, " b"]:
    """Draw which images are mirrored: each with probability 1/2."""
    return jax.random.bernoulli(key, 0.5, (count,))


def flip(images: Float[Array, "b h w c"], flipped: Bool[Array, " b"]) -> Float[Array, "b h w c"]:
    """Mirror the marked images left to right."""
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def draw_erased_boxes(key: Array, count: int, size: tuple[int, int], probability: float) -> Boxes:
    """Draw the box that is erased in each image; it is empty in the others.

    The fraction of the area is uniform in ``ERASED_AREA``, the logarithm of the aspect ratio is
    uniform in ``ERASED_ASPECT_RATIO``, and the position among those inside the image; sides are
    rounded to whole pixels. Areas and logarithm are as in ImageNet trainers; the paper has areas up
    to 0.4. A box too high or too wide for the image gets the nearest ratio that fits, where the
    paper draws again until one fits.
    """
    height, width = size
    choice, area, ratio, down, right = jax.random.uniform(key, (5, count))
    area = _between(ERASED_AREA, area)
    lowest, highest = map(math.log, ERASED_ASPECT_RATIO)
    ratio = jnp.exp(_between((lowest, highest), ratio))
    ratio = jnp.clip(ratio, area * height / width, height / (area * width))
    box_height = jnp.round(jnp.sqrt(area * ratio * height * width)).astype(jnp.int32)
    box_width = jnp.round(jnp.sqrt(area / ratio * height * width)).astype(jnp.int32)
    box_height = jnp.where(choice < probability, box_height, 0)
    top = _below(height - box_height + 1, down)
    left = _below(width - box_width + 1, right)
    return Boxes(top, left, top + box_height, left + box_width)


def erase(
    images: Float[Array, "b h w c"], boxes: Boxes, noise: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """Replace each image's box by noise.

    Standard normal noise for each pixel and channel, as ``augment_batch`` draws it, has the mean
    and spread of normalised images; ImageNet trainers use it, the paper values uniform in [0, 255].
    """
    inside = contains(boxes, (images.shape[1], images.shape[2]))
    return jnp.where(inside[..., None], noise, images)


def contains(boxes: Boxes, size: tuple[int, int]) -> Bool[Array, "b h w"]:
    """Whether each pixel of images of this (height, width) is in the image's box."""
    rows, columns = jnp.arange(size[0]), jnp.arange(size[1])
    in_rows = (boxes.top[:, None] <= rows) & (rows < boxes.bottom[:, None])
    in_columns = (boxes.left[:, None] <= columns) & (columns < boxes.right[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]


def draw_mixture(key: Array, size: tuple[int, int], augmentation: Augmentation) -> Mixture:
    """Draw the one mixture of the batch, mixup's or CutMix's, with λ ~ Beta(alpha, alpha)."""
    of_choice, of_share, of_box = jax.random.split(key, 3)
    both = augmentation.mixup_alpha > 0 and augmentation.cutmix_alpha > 0
    cutmix_probability = 0.5 if both else float(augmentation.cutmix_alpha > 0)
    cuts = jax.random.bernoulli(of_choice, cutmix_probability)
    alpha = jnp.where(cuts, augmentation.cutmix_alpha, augmentation.mixup_alpha)
    share = jax.random.beta(of_share, alpha, alpha)
    cut = cutmix(draw_cut_box(of_box, share, size), size)
    blend = mixup(share, size)
    return Mixture(
        own=jnp.where(cuts, cut.own, blend.own), share=jnp.where(cuts, cut.share, blend.share)
    )


def draw_cut_box(key: Array, share: Float[Array, ""], size: tuple[int, int]) -> Boxes:
    """Draw the box that CutMix takes from the partners: 1 − λ of the area, clipped at the borders.

    Its sides are √(1 − λ) of the image's, rounded down, and its centre is uniform in the image.
    """
    height, width = size
    row, column = jax.random.uniform(key, (2, 1))
    side = jnp.sqrt(1 - share)
    box_height, box_width = (jnp.floor(side * length).astype(jnp.int32) for length in size)
    top = _below(height, row) - box_height // 2
    left = _below(width, column) - box_width // 2
    return Boxes(
        jnp.maximum(top, 0),
        jnp.maximum(left, 0),
        jnp.minimum(top + box_height, height),
        jnp.minimum(left + box_width, width),
    )


def mixup(share: Float[Array, ""], size: tuple[int, int]) -> Mixture:
    """Weigh the image itself by λ at every pixel."""
    return Mixture(jnp.broadcast_to(share, size), share)


def cutmix(box: Boxes, size: tuple[int, int]) -> Mixture:
    """Take the partner inside the box; λ is the fraction of pixels outside, whatever was drawn."""
    inside = contains(box, size)[0]
    return Mixture(1 - inside.astype(jnp.float32), 1 - jnp.mean(inside, dtype=jnp.float32))


def mix(
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b classes"],
    valid: Bool[Array, " b"],
    mixture: Mixture,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b classes"]]:
    """Mix each image and target with its partner's, where both are valid.

    x = own · x + (1 − own) · x_partner and y = λ · y + (1 − λ) · y_partner, where the partner of
    row i is row b − 1 − i. In an odd batch the middle one is its own partner and stays.
    """
    own, share = mixture.own[..., None].astype(images.dtype), mixture.share.astype(targets.dtype)
    both = valid & valid[::-1]
    mixed_images = own * images + (1 - own) * images[::-1]
    mixed_targets = share * targets + (1 - share) * targets[::-1]
    # Selected, not weighted by zero: an invalid row may hold NaNs.
    return (
        jnp.where(both[:, None, None, None], mixed_images, images),
        jnp.where(both[:, None], mixed_targets, targets),
    )


def _between(ends: tuple[float, float], numbers: Float[Array, " b"]) -> Float[Array, " b"]:
    """Numbers uniform in [0, 1) as ones uniform between the two ends."""
    return ends[0] + (ends[1] - ends[0]) * numbers


def _below(count: int | Int[Array, " b"], numbers: Float[Array, " b"]) -> Int[Array, " b"]:
    """Numbers uniform in [0, 1) as integers uniform in [0, count)."""
    return jnp.floor(numbers * count).astype(jnp.int32)
