"""From an image to a uint8 array of the model's size, for evaluation and for training."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bottleneck_transformer_flax.augmentation.auto_augment import apply_policy
from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.decoding import OpenedImage
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.preprocessing import Preprocessing

Box = tuple[int, int, int, int]

_CROP_ATTEMPTS = 10
_REDUCTIONS = (8, 4, 2)


@dataclass(frozen=True)
class EvaluationTransform:
    """Resize an image, keeping proportions, so that it just covers ``size / crop``; cut the centre.

    With ``t = round(size / crop)`` the scale is ``max(t_h / h, t_w / w)``. An image that has the
    right size already is not resampled. Images are decoded whole, so that accuracies agree with
    other programs'.
    """

    preprocessing: Preprocessing

    def __call__(
        self, image: OpenedImage, rng: np.random.Generator | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Return the centre of an image; the array may be read-only.

        Raises:
            DataError: when the image cannot be decoded.
        """
        return np.asarray(self.centre(image.decode()))

    def centre(self, image: Image.Image) -> Image.Image:
        """Return the centre of an RGB image as an image."""
        height, width = self.preprocessing.size
        target_height = round(height / self.preprocessing.crop)
        target_width = round(width / self.preprocessing.crop)
        scale = max(target_height / image.height, target_width / image.width)
        resized_height = max(target_height, round(image.height * scale))
        resized_width = max(target_width, round(image.width * scale))
        top, left = (resized_height - height) // 2, (resized_width - width) // 2
        if (resized_height, resized_width) == (image.height, image.width):
            if (height, width) != (image.height, image.width):
                image = image.crop((left, top, left + width, top + height))
            return image
        # Resizing computes only what the crop keeps: the box is the crop in the image's own pixels.
        across, down = image.width / resized_width, image.height / resized_height
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return image.resize((width, height), _filter(self.preprocessing), box)


@dataclass(frozen=True)
class TrainingTransform:
    """Crop an image at random to the model's size, apply the policy, and shift it.

    Raises:
        ConfigError: when ``shift_pixels`` could move the whole image out of sight.
    """

    preprocessing: Preprocessing
    augmentation: Augmentation

    def __post_init__(self) -> None:
        """Check the shift against the model's input size."""
        if self.augmentation.crop == "shift" and self.augmentation.shift_pixels >= min(
            self.preprocessing.size
        ):
            raise ConfigError(
                f"augmentation shift_pixels is {self.augmentation.shift_pixels}; expected less "
                f"than the shorter side of the input size {self.preprocessing.size}"
            )

    def __call__(self, image: OpenedImage, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """Return an augmented image; the array may be read-only.

        Raises:
            DataError: when the image cannot be decoded.
        """
        if self.augmentation.crop == "resized":
            resized = self._random_part(image, rng)
        else:
            resized = EvaluationTransform(self.preprocessing).centre(image.decode())
        pixels = np.asarray(apply_policy(resized, self.augmentation, rng))
        if self.augmentation.crop == "shift":
            pixels = shift(pixels, self.augmentation.shift_pixels, rng)
        return pixels

    def _random_part(self, image: OpenedImage, rng: np.random.Generator) -> Image.Image:
        """Cut a random box out of an image and resize it to the model's size.

        The image is decoded at the lowest resolution at which the box still has as many pixels
        as the model's input.
        """
        height, width = self.preprocessing.size
        left, top, right, bottom = random_box(image.size, width / height, self.augmentation, rng)
        fitting = (
            n for n in _REDUCTIONS if right - left >= n * width and bottom - top >= n * height
        )
        decoded = image.decode(next(fitting, 1))
        down, across = decoded.height / image.size[0], decoded.width / image.size[1]
        box = (left * across, top * down, right * across, bottom * down)
        return decoded.resize((width, height), _filter(self.preprocessing), box)


Transform = EvaluationTransform | TrainingTransform
"""What the loader applies to every image; picklable, for worker processes."""


def shift(
    pixels: UInt8[np.ndarray, "h w 3"], longest: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Move an image over zeros, by a uniform number of pixels in [-longest, longest] on each axis.

    ``longest`` must be less than both sides.
    """
    height, width, _ = pixels.shape
    down, right = rng.integers(-longest, longest, size=2, endpoint=True).tolist()
    shifted = np.zeros_like(pixels)
    shifted[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = pixels[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return shifted


def random_box(
    size: tuple[int, int],
    target_aspect_ratio: float,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Box:
    """Draw the part of an image that the crop "resized" takes: (left, top, right, bottom).

    The fraction of the area is uniform in [min_scale, 1], the aspect ratio log-uniform, and the
    position uniform among those that fit (Szegedy et al. 2015, "Going Deeper with Convolutions",
    section 6). When ten draws don't fit, the largest centred part with an allowed aspect ratio is
    taken. Unlike torchvision's, aspect ratios are relative to the model's input, so that a wide
    input distorts no more than a square one.

    Args:
        size: (height, width) of the image.
        target_aspect_ratio: width / height of the model's input.
        augmentation: gives ``min_scale`` and ``aspect_ratio``.
        rng: drawn from.
    """
    height, width = size
    lowest, highest = (target_aspect_ratio * ratio for ratio in augmentation.aspect_ratio)
    for _ in range(_CROP_ATTEMPTS):
        area = height * width * rng.uniform(augmentation.min_scale, 1)
        ratio = math.exp(rng.uniform(math.log(lowest), math.log(highest)))
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(rng.integers(height - box_height, endpoint=True))
            left = int(rng.integers(width - box_width, endpoint=True))
            return left, top, left + box_width, top + box_height
    ratio = min(max(width / height, lowest), highest)
    box_height = min(height, max(1, round(width / ratio)))
    box_width = min(width, max(1, round(height * ratio)))
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return left, top, left + box_width, top + box_height


def _filter(preprocessing: Preprocessing) -> Image.Resampling:
    """The resampling filter as Pillow has it."""
    return Image.Resampling[preprocessing.interpolation.upper()]
