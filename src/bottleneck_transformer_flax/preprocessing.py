"""How images become model input, and logits probabilities: a record saved with every model."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from bottleneck_transformer_flax.errors import ConfigError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Channels = tuple[float, float, float]
LONGEST_SIDE = 2**16
"""Largest height or width of an image in pixels."""
ImageArray = TypeVar("ImageArray", bound=Any)

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


def checked_image_size(size: Any) -> tuple[int, int]:
    """Convert a list or tuple to a (height, width) in pixels.

    Raises:
        ConfigError: when it is not two integers from 1 to ``LONGEST_SIDE``.
    """
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or any(not isinstance(side, int | np.integer) or isinstance(side, bool) for side in size)
        or not 1 <= min(size) <= max(size) <= LONGEST_SIDE
    ):
        raise ConfigError(
            f"image size is {size!r}; expected (height, width), two integers from 1 to "
            f"{LONGEST_SIDE}"
        )
    return int(size[0]), int(size[1])


def _are_finite(values: Iterable[Any], *, count: int) -> bool:
    """Whether these are ``count`` finite numbers."""
    numbers = [isinstance(value, int | float | np.number) for value in values]
    return len(numbers) == count and all(numbers) and bool(np.isfinite(list(values)).all())


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an RGB image becomes model input, and logits become probabilities.

    Resize, keeping proportions, to the smallest image that covers ``size / crop``; crop the centre
    to ``size``; map values in [0, 255] to ``(value / 255 - mean) / std``.

    Attributes:
        size: (height, width) of the model's input in pixels.
        crop: fraction of the resized image's side that the centre crop keeps, in (0, 1].
        mean: mean of each RGB channel, for values in [0, 1].
        std: standard deviation of each RGB channel, for values in [0, 1]; positive.
        interpolation: resampling filter, always antialiased.
        temperature: probabilities are ``softmax(logits / temperature)``; positive. It is fitted to
            one set of weights, so further training and a new head need another.

    Raises:
        ConfigError: when a value is not allowed.
    """

    size: tuple[int, int] = (224, 224)
    crop: float = 0.875
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Convert lists, as JSON has them, to tuples, then check every field."""
        object.__setattr__(self, "size", checked_image_size(self.size))
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple | np.ndarray) or not _are_finite(value, count=3):
                raise ConfigError(
                    f"preprocessing {name} is {value!r}; expected three finite numbers (RGB)"
                )
            object.__setattr__(self, name, tuple(map(float, value)))
        if not _are_finite([self.crop], count=1) or not 0 < self.crop <= 1:
            raise ConfigError(f"preprocessing crop is {self.crop!r}; expected a value in (0, 1]")
        if min(self.std) <= 0:
            raise ConfigError(f"preprocessing std is {self.std}; expected all to be above 0")
        if not _are_finite([self.temperature], count=1) or self.temperature <= 0:
            raise ConfigError(
                f"preprocessing temperature is {self.temperature!r}; expected a finite number "
                "above 0"
            )
        if self.interpolation not in get_args(Interpolation):
            raise ConfigError(
                f"preprocessing interpolation is {self.interpolation!r}; "
                f"expected one of {', '.join(get_args(Interpolation))}"
            )

    def normalize(self, images: ImageArray) -> ImageArray:
        """Map RGB values in [0, 255], NumPy or JAX, ``(..., 3)``, to float32 model input.

        Raises:
            ConfigError: when the last axis is not the three channels.
        """
        if images.shape[-1:] != (3,):
            raise ConfigError(
                f"images have shape {images.shape}; expected three channels last (RGB)"
            )
        # Of the images' rank, since JAX may be told to refuse any other.
        shape = (1,) * (images.ndim - 1) + (3,)
        mean = np.asarray(self.mean, np.float32).reshape(shape)
        std = np.asarray(self.std, np.float32).reshape(shape)
        return (images.astype(np.float32) / 255 - mean) / std

    def replace(self, **changes: Any) -> "Preprocessing":
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON values; a temperature of 1 is left out, as earlier versions do."""
        values = asdict(self)
        if self.temperature == 1:
            del values["temperature"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """Create a record from the values of ``to_json``.

        Raises:
            ConfigError: for an unknown key, or a value not allowed.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ConfigError(
                f"preprocessing has unknown keys {unknown}; expected only "
                f"{sorted(cls.__dataclass_fields__)}"
            )
        return cls(**values)
