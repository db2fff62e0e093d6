"""Any image file that Pillow decodes, as 8-bit RGB, or one line that says why it cannot be."""

import contextlib
import io
import re
import warnings
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from bottleneck_transformer_flax.errors import ConfigError, DataError, OwnFigureError, reraise
from bottleneck_transformer_flax.image_formats import (
    FORMATS,
    HEIF_REMEDY,
    count_undecoded,
    describe_undecoded,
    is_heif,
)
from bottleneck_transformer_flax.own_output import SOFTWARE

# Formats whose header tells the size, and that decode faster at a fraction of the resolution.
_REDUCIBLE = {"JPEG", "MPO"}

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THE_SIDE = {5, 6, 7, 8}
_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@runtime_checkable
class BinaryFile(Protocol):
    """A ``BytesIO``, an upload, or a file opened as "rb"."""

    def read(self) -> bytes:
        """All bytes from the position on."""
        ...


class DecodedImage:
    """An image that is decoded already."""

    def __init__(self, image: Image.Image) -> None:
        """Wrap an upright image, mode RGB."""
        self._image = image

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image.height, self._image.width

    def decode(self, reduction: int = 1) -> Image.Image:
        """The image, whole whatever the reduction."""
        return self._image


class EncodedImage:
    """The bytes of an image file; a JPEG is decoded when its pixels are asked for.

    A JPEG is reduced by transforming only the lower frequencies of its blocks. Other formats are
    decoded whole when they are opened, because only then is their size certain.

    Pillow's warnings about odd but readable files are silenced for the whole process from the
    first image on: ``warnings.catch_warnings`` is not safe in the loader's reader threads.
    """

    def __init__(self, content: bytes, name: str) -> None:
        """Read the header.

        Args:
            content: bytes of the file.
            name: name of the image in messages.

        Raises:
            DataError: when it is not an image; the one-line message says why.
        """
        self._content, self._name = content, name
        self._header: Image.Image | None = None
        self._pixels: Image.Image | None = None
        with _damage_named(name):
            image = _open(content, name)
            if image.format in _REDUCIBLE:
                self._header = image
                on_the_side = _orientation(image) in _ON_THE_SIDE
                self._size = image.size if on_the_side else image.size[::-1]
            else:
                self._pixels = _upright_rgb(image)
                self._size = self._pixels.size[::-1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        return self._size

    def decode(self, reduction: int = 1) -> Image.Image:
        """The pixels, mode RGB, upright.

        Args:
            reduction: 1, 2, 4 or 8. The sides of a JPEG are divided by it and rounded up; other
                images stay whole, since decoding fewer pixels would save no time.

        Raises:
            DataError: when the image is damaged; the message names it.
        """
        if self._pixels is not None:
            return self._pixels
        with _damage_named(self._name):
            # Pillow decodes a file once; the one whose header was read serves the first call.
            image, self._header = self._header or _open(self._content, self._name), None
            image.draft(None, (max(1, image.width // reduction), max(1, image.height // reduction)))
            return _upright_rgb(image)


OpenedImage = DecodedImage | EncodedImage
"""An image with a known size, whose pixels are decoded on demand."""


def allow_pixels(count: int | None) -> None:
    """Let an image have this many pixels, in this process and the workers that it starts.

    Args:
        count: the number; with None, Pillow's limit stays, which is 178,956,970 unless the program
            has set ``PIL.Image.MAX_IMAGE_PIXELS``.

    Raises:
        ConfigError: when the number is below 1.
    """
    if count is None:
        return
    if count < 1:
        raise ConfigError(f"max_pixels is {count}; expected at least 1")
    # Pillow warns above its limit, and refuses what exceeds it twice.
    Image.MAX_IMAGE_PIXELS = (count + 1) // 2


def read_file(path: str | PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
        DataError: when they cannot be read; the one-line message names the file.
    """
    with _damage_named(fspath(path)):
        return Path(path).read_bytes()


ImageInput = str | PathLike[str] | bytes | BinaryFile | Image.Image | np.ndarray
"""What ``decode_image`` takes."""


def decode_image(image: ImageInput) -> Image.Image:
    """Decode one image to mode RGB, 8 bits a channel, upright.

    The EXIF orientation is applied; transparency is laid over white; 16-bit and float greys are
    scaled to [0, 255], never clipped from a wider range (see ``_grey_to_uint8``); an animation
    gives its first frame. Colour profiles are not applied, as in the usual training pipelines.

    Args:
        image: a path, the bytes of an image file, a binary file object positioned at the image
            (which is not closed), a Pillow image, or an RGB array (h, w, 3) of uint8.

    Raises:
        DataError: when the file is missing, empty, truncated, not an image, or far too large, or
            an array has another shape or dtype; the one-line message names the file and the
            reason.
    """
    if isinstance(image, str | PathLike):
        return EncodedImage(read_file(image), fspath(image)).decode()
    if isinstance(image, Image.Image):
        with _damage_named(getattr(image, "filename", "") or "the given image"):
            return _upright_rgb(image)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise DataError(
                f"an image is an array of {image.dtype} and shape {image.shape}; expected uint8 "
                "and (height, width, 3), RGB"
            )
        return Image.fromarray(np.ascontiguousarray(image))
    name = getattr(image, "name", None)
    name = name if isinstance(name, str) else "the given image"
    if isinstance(image, bytes):
        return EncodedImage(image, name).decode()
    if not isinstance(image, BinaryFile):
        raise DataError(
            f"an image is a {type(image).__name__}; expected a path, bytes, a binary file, an "
            "array or a Pillow image"
        )
    with _damage_named(name):
        content = image.read()
    return EncodedImage(content, name).decode()


class ImageHeader(NamedTuple):
    """What an image's header says: (height, width) in pixels, and whether it has one channel."""

    size: tuple[int, int]
    grey: bool


def read_header(content: bytes, name: str) -> ImageHeader:
    """Read the header of an image file, without decoding its pixels.

    Raises:
        DataError: when it is not an image; the one-line message names it.
    """
    with _damage_named(name):
        image = _open(content, name)
        # Asking another format for its orientation may decode the file.
        upright = image.format not in _REDUCIBLE or _orientation(image) not in _ON_THE_SIDE
        size = image.size[::-1] if upright else image.size
        return ImageHeader(size, Image.getmodebase(image.mode) == "L")


def _open(content: bytes, name: str) -> Image.Image:
    """Read the header of an image with a name."""
    if _PILLOW_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        if "HEIF" not in FORMATS and is_heif(content):
            raise ValueError(f"it is HEIC, which Pillow does not decode; {HEIF_REMEDY}") from None
        if told := describe_undecoded(count_undecoded([name])):
            raise ValueError(told) from None
        raise ValueError(
            "it is empty, damaged, or of no image format that Pillow decodes"
        ) from None
    except Image.DecompressionBombError as error:
        pixels, limit = re.findall(r"\d+", str(error))[:2]
        raise ValueError(
            f"it has {int(pixels):,} pixels, and more than {int(limit):,} may be an attack on the "
            f"memory; if you trust it, allow as many with --max-pixels {pixels}"
        ) from None
    if image.info.get("Software") == SOFTWARE:
        raise OwnFigureError(f"{name}: is a figure that botnet drew, and not an image to classify")
    return image


def _damage_named(name: str) -> contextlib.AbstractContextManager[None]:
    """Turn any exception about an image into one error that names it."""
    # Pillow's decoders raise almost anything (struct.error, SyntaxError, KeyError, …) on damage.
    return reraise(Exception, DataError, f"{name}: cannot be read as an image")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; damaged EXIF counts as none."""
    with contextlib.suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image."""
    image.load()
    transpose = _TRANSPOSES.get(_orientation(image))
    return _to_rgb(image if transpose is None else image.transpose(transpose))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        grey = _grey_to_uint8(values)
        if isinstance(transparent := image.info.get("transparency"), int):
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data or image.mode == "RGBa":
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image.convert("RGB")


def _grey_to_uint8(values: np.ndarray) -> np.ndarray:
    """Scale integer or float grey values (h, w) to uint8.

    Black and white are the ends of the range that the values come in: [0, 65535] for integers,
    [0, 1] or else [0, 255] for floats. Resampling overshoots, so 1 % more counts as in the range.
    Other values are scaled by their own range, extended down to 0.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size == 0:
        return np.zeros(values.shape, np.uint8)
    lowest, highest = min(0.0, float(finite.min())), float(finite.max())
    floats = np.issubdtype(values.dtype, np.floating)
    for top in (1.0, 255.0) if floats else (65535.0,):
        if lowest >= -0.01 * highest and highest <= 1.01 * top:
            lowest, highest = 0.0, top
            break
    grey = np.nan_to_num(values.astype(np.float64), nan=lowest, posinf=highest, neginf=lowest)
    scale = 255 / ((highest - lowest) or 1.0)
    return np.clip(np.rint((grey - lowest) * scale), 0, 255).astype(np.uint8)
