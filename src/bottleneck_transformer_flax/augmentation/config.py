"""How training images are augmented, on the host and on the device: one record."""

import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bottleneck_transformer_flax.errors import ConfigError

Crop = Literal["none", "shift", "resized"]
PolicyName = Literal["none", "rand", "trivial"]

HIGHEST_MAGNITUDE = 30.0
"""The largest magnitude of RandAugment that the paper tries."""

_LARGEST_ASPECT_RATIO = 100.0
# Below the smallest, float32 cannot hold the λ drawn; at the largest, λ is 0.5 ± 0.05 already.
_SMALLEST_ALPHA, _LARGEST_ALPHA = 1e-3, 1000.0
_TINY = sys.float_info.min


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are augmented: one by one, then in batches on the device.

    Attributes:
        crop: "none" keeps the evaluation geometry; "shift" then moves the image by up to
            ``shift_pixels`` and fills with zeros (small images); "resized" resizes a random part
            to the model's size (photographs).
        shift_pixels: longest move along each axis, in pixels of the model's input.
        min_scale: smallest fraction of the image's area that "resized" takes, in (0, 1].
        aspect_ratio: (lowest, highest) width / height of the part that "resized" takes, relative
            to the width / height of the model's input.
        policy: operations on colours and shape after the crop: "rand" is RandAugment, "trivial"
            is TrivialAugment.
        policy_layers: operations that "rand" applies to an image.
        policy_magnitude: strength of the operations of "rand", in [0, 30]; 10 is strong.
        flip: whether half of the images are mirrored left to right.
        mixup_alpha: parameter of mixup's Beta distribution, which blends images with others; 0
            for no mixup.
        cutmix_alpha: parameter of CutMix's Beta distribution, which pastes parts of other images;
            0 for no CutMix. With mixup as well, each batch has one of the two.
        erasing_probability: chance that a random part of an image is erased.

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
        ratios, high = self.aspect_ratio, _LARGEST_ASPECT_RATIO
        ratios_fit = len(ratios) == 2 and all(_is_number(r, 1 / high, high) for r in ratios)
        alpha = f"0 or a number in [{_SMALLEST_ALPHA:g}, {_LARGEST_ALPHA:g}]"
        magnitude_fits = _is_number(self.policy_magnitude, 0.0, HIGHEST_MAGNITUDE)
        for name, expected, fits in (
            _choice("crop", self.crop, Crop),
            ("shift_pixels", "an integer of at least 0", _is_integer(self.shift_pixels, 0)),
            ("min_scale", "a number in (0, 1]", _is_number(self.min_scale, _TINY, 1.0)),
            (
                "aspect_ratio",
                f"(lowest, highest), both in [1/{high:g}, {high:g}]",
                ratios_fit and ratios[0] <= ratios[1],
            ),
            _choice("policy", self.policy, PolicyName),
            ("policy_layers", "an integer of at least 1", _is_integer(self.policy_layers, 1)),
            ("policy_magnitude", f"a number in [0, {HIGHEST_MAGNITUDE:g}]", magnitude_fits),
            ("mixup_alpha", alpha, _is_alpha(self.mixup_alpha)),
            ("cutmix_alpha", alpha, _is_alpha(self.cutmix_alpha)),
            ("erasing_probability", "a number in [0, 1]", _is_number(self.erasing_probability)),
        ):
            if not fits:
                value = getattr(self, name)
                raise ConfigError(f"augmentation {name} is {value!r}; expected {expected}")


def _choice(name: str, value: Any, choices: Any) -> tuple[str, str, bool]:
    names = get_args(choices)
    return name, f"one of {', '.join(names)}", value in names


def _is_integer(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _is_number(value: Any, lowest: float = 0.0, highest: float = 1.0) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and lowest <= value <= highest


def _is_alpha(value: Any) -> bool:
    return _is_number(value, _SMALLEST_ALPHA, _LARGEST_ALPHA) or _is_number(value, 0.0, 0.0)
