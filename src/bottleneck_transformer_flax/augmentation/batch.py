"""Flips, random erasing, mixup and CutMix of a whole batch, on the device, in the jitted step.

Images are flipped, then erased, then mixed. Flips come first, so that the two images of a mixture
are flipped independently. Erasing comes before mixing, because mixed targets count the pixels that
each image contributes, and must not count pixels erased afterwards.

``draw_…`` functions draw parameters of static shapes from a key, and the others apply them through
masks, so that a step compiles once. Image i is mixed with image b − 1 − i. Random numbers are drawn
for the whole batch, and are the same however it is sharded over devices.
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
    """Weights for mixing every image of a batch with its partner.

    Attributes:
        own: weight of the image itself at each pixel.
        share: λ, the weight of its target: the mean of ``own``.
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
    """Flip, erase and mix images as ``augmentation`` says.

    Args:
        images: normalised model input.
        targets: one-hot rows, perhaps smoothed.
        valid: which rows are images; only these are mixed.
        key: the only source of randomness. Each of the three has a key of its own, so that
            switching one on or off leaves the others unchanged.
        augmentation: fields other than ``flip``, ``erasing_probability`` and the alphas are for
            single images and not used here.
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
    """Draw the box to erase in each image: an empty one with probability 1 − ``probability``.

    The fraction of the area is uniform in ``ERASED_AREA``, the aspect ratio log-uniform in
    ``ERASED_ASPECT_RATIO``, and the position uniform among those inside the image; sides are
    rounded to whole pixels. This is what ImageNet trainers do; the paper has areas up to 0.4 and a
    uniform ratio. A box too high or too wide gets the nearest ratio that fits, where the paper
    draws again.
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

    The noise that ``augment_batch`` draws is standard normal, like normalised images, as in
    ImageNet trainers; the paper's is uniform in [0, 255].
    """
    inside = contains(boxes, (images.shape[1], images.shape[2]))
    return jnp.where(inside[..., None], noise, images)


def contains(boxes: Boxes, size: tuple[int, int]) -> Bool[Array, "b h w"]:
    """Whether each pixel is in its image's box; ``size`` is (height, width)."""
    rows, columns = jnp.arange(size[0])[None], jnp.arange(size[1])[None]
    in_rows = (boxes.top[:, None] <= rows) & (rows < boxes.bottom[:, None])
    in_columns = (boxes.left[:, None] <= columns) & (columns < boxes.right[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]


def draw_mixture(key: Array, size: tuple[int, int], augmentation: Augmentation) -> Mixture:
    """Draw one mixture for the batch, by mixup or CutMix, with λ ~ Beta(alpha, alpha)."""
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
    """Draw the box that CutMix takes from the partners: 1 − λ of the area.

    Its sides are √(1 − λ) times the image's, rounded down; its centre is uniform in the image, and
    the part outside is cut off.
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
    """Take the partner inside the box; λ becomes the exact fraction of pixels outside."""
    inside = contains(box, size)[0]
    return Mixture(1 - inside.astype(jnp.float32), 1 - jnp.mean(inside, dtype=jnp.float32))


def mix(
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b classes"],
    valid: Bool[Array, " b"],
    mixture: Mixture,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b classes"]]:
    """Mix each image and target with its partner's, where both are valid.

    x_i ← own · x_i + (1 − own) · x_j and y_i ← λ · y_i + (1 − λ) · y_j, with j = b − 1 − i. The
    middle image of an odd batch is its own partner and stays as it is.
    """
    own = mixture.own[None, ..., None].astype(images.dtype)
    share = mixture.share.astype(targets.dtype)
    both = valid & valid[::-1]
    mixed_images = own * images + (1 - own) * images[::-1]
    mixed_targets = share * targets + (1 - share) * targets[::-1]
    # Selected, not weighted by zero: an invalid row may hold NaNs.
    return (
        jnp.where(both[:, None, None, None], mixed_images, images),
        jnp.where(both[:, None], mixed_targets, targets),
    )


def _between(ends: tuple[float, float], numbers: Float[Array, " b"]) -> Float[Array, " b"]:
    """Scale numbers in [0, 1) to the interval between the two ends."""
    return ends[0] + (ends[1] - ends[0]) * numbers


def _below(count: int | Int[Array, " b"], numbers: Float[Array, " b"]) -> Int[Array, " b"]:
    """Scale numbers in [0, 1) to integers in [0, count)."""
    return jnp.floor(numbers * jnp.asarray(count, numbers.dtype)).astype(jnp.int32)
