"""Made-up pictures that cost as much to decode as photographs, the same on every machine."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

USUAL_SIZE = (375, 500)
"""(height, width) in pixels, ImageNet's most frequent."""
JPEG_QUALITY = 90
_DISCS = 40
_SMALLEST_RADIUS, _LARGEST_RADIUS = 0.02, 0.4


def write_photographs(folder: Path, count: int, size: tuple[int, int], *, seed: int = 0) -> None:
    """Write ``count`` JPEG files into an existing folder.

    One of 375 × 500 pixels has about 100 KB, as in ImageNet.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        picture = Image.fromarray(draw_photograph(size, rng))
        picture.save(folder / f"{number:04}.jpg", quality=JPEG_QUALITY)


def draw_photograph(size: tuple[int, int], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draw discs of all sizes in front of each other, under texture and a little noise.

    Photographs' amplitudes fall as 1/f with the frequency f (Field 1987), and discs whose radii r
    are as frequent as r^-3 make edges as objects do (Lee, Mumford & Huang 2001).
    """
    image = 120 + np.zeros((*size, 3))
    for _ in range(_DISCS):
        radius = max(size) * min(_SMALLEST_RADIUS * rng.random() ** -0.5, _LARGEST_RADIUS)
        _draw_disc(image, rng.random(2) * size, radius, rng.normal(0, 40) + rng.normal(0, 16, 3))
    colors = np.stack([_texture(size, rng) for _ in range(3)], axis=-1)
    image += 35 * _texture(size, rng)[..., None] + 8 * colors
    image += rng.normal(0, 2, (*size, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def _draw_disc(
    image: Float[np.ndarray, "h w 3"],
    center: Float[np.ndarray, "2"],
    radius: float,
    color: Float[np.ndarray, "3"],
) -> None:
    """Draw a disc over the image; ``color`` is its difference from the image's grey."""
    top, left = np.maximum(center - radius, 0).astype(int)
    bottom, right = np.ceil(center + radius).astype(int)
    part = image[top:bottom, left:right]
    rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    part[(rows - center[0]) ** 2 + (columns - center[1]) ** 2 < radius**2] = 120 + color


def _texture(size: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Noise of mean 0 and deviation 1 whose amplitudes fall as 1/f."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random(frequency.shape))
    texture = np.fft.irfft2(phases / frequency, size)
    return texture / texture.std()
