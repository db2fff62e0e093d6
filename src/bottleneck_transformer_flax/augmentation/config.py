"""How training images are augmented, on the host and on the device: one record."""

from dataclasses import dataclass
from typing import Any, Literal

from bottleneck_transformer_flax.config_checks import UP_TO_1, Check, check_fields, integer, number

Crop = Literal["none", "shift", "resized"]
PolicyName = Literal["none", "rand", "trivial"]

HIGHEST_MAGNITUDE = 30.0
"""The largest magnitude of RandAugment that the paper tries."""

# Below 0.001 float32 cannot hold the λ drawn; at 1000 λ is 0.5 ± 0.05 already.
_ALPHA = number("that is 0 or in [0.001, 1000]", lambda alpha: alpha == 0 or 0.001 <= alpha <= 1000)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are augmented: one by one, then in batches on the device.

    Attributes:
        crop: "none" keeps the evaluation geometry; "shift" then moves the image by up to
            shift_pixels and fills with zeros (small images); "resized" resizes a random part
            to the model's size (photographs).
        shift_pixels: Longest move along each axis, in pixels of the model's input.
        min_scale: Smallest fraction of the image's area that "resized" takes, in (0, 1].
        aspect_ratio: (lowest, highest) width / height of the part that "resized" takes, relative
            to the width / height of the model's input.
        policy: Operations on colours and shape after the crop: "rand" is RandAugment, "trivial"
            is TrivialAugment.
        policy_layers: Operations that "rand" applies to an image.
        policy_magnitude: Strength of the operations of "rand", in [0, 30]; 10 is strong.
        flip: Whether half of the images are mirrored left to right.
        mixup_alpha: Parameter of mixup's Beta distribution, which blends images with others; 0
            for no mixup.
        cutmix_alpha: Parameter of CutMix's Beta distribution, which pastes parts of other images;
            at 0 there is none. With mixup as well, each batch has one of the two.
        erasing_probability: Chance that a random part of an image is erased.

    Raises:
        ConfigError: when a value is outside the range given above.
    """

    crop: Crop = "none"
    shift_pixels: int = 2
    min_scale: float = 0.08
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    policy: PolicyName = "none"
    policy_layers: int = 2
    policy_magnitude: float = 10.0
    flip: bool = True
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    erasing_probability: float = 0.0

    def __post_init__(self) -> None:
        """Turn lists (JSON has no tuples) into tuples, then check every value."""
        object.__setattr__(self, "aspect_ratio", tuple(self.aspect_ratio))
        check_fields(
            self,
            shift_pixels=integer("of at least 0", lambda value: value >= 0),
            min_scale=UP_TO_1,
            aspect_ratio=Check(_is_aspect_ratio, "(lowest, highest), both in [1/100, 100]"),
            policy_magnitude=number("in [0, 30]", lambda value: 0 <= value <= HIGHEST_MAGNITUDE),
            mixup_alpha=_ALPHA,
            cutmix_alpha=_ALPHA,
            erasing_probability=number("in [0, 1]", lambda value: 0 <= value <= 1),
        )


def _is_aspect_ratio(value: tuple[Any, ...]) -> bool:
    return (
        len(value) == 2
        and all(isinstance(ratio, int | float) for ratio in value)
        and 0.01 <= value[0] <= value[1] <= 100
    )
