"""Every mode Pillow knows becomes RGB; every damage becomes one DataError."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from bottleneck_transformer_flax import decoding
from bottleneck_transformer_flax.decoding import (
    EncodedImage,
    allow_pixels,
    decode_image,
    read_file,
    read_header,
)
from bottleneck_transformer_flax.errors import ConfigError, DataError

HEIC = Path(__file__).parent / "goldens/on_its_side.heic"
COLOURS = np.array(
    [[[250, 10, 20], [30, 240, 40], [50, 60, 230]], [[0, 0, 0], [255] * 3, [128] * 3]]
)


def rgb() -> Image.Image:
    """An image of 2 rows and 3 columns, all pixels different."""
    return Image.fromarray(COLOURS.astype(np.uint8))


def decoded(file) -> np.ndarray:
    image = decode_image(file)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def saved(path, image, mode, **options):
    """The path, of an image that Pillow reads back in this mode."""
    image.save(path, **options)
    with Image.open(path) as read:
        assert read.mode == mode
    return path


def assert_grey(path, expected, tolerance=0) -> None:
    found = decoded(path)
    assert np.ptp(found, axis=-1).max() == 0
    np.testing.assert_allclose(found[..., 0], expected, atol=tolerance)


def test_a_path_a_text_and_a_file_object(tmp_path):
    rgb().save(tmp_path / "a.png")
    stream = io.BytesIO((tmp_path / "a.png").read_bytes())
    for file in (tmp_path / "a.png", str(tmp_path / "a.png"), stream):
        np.testing.assert_array_equal(decoded(file), COLOURS)
    assert not stream.closed


def palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250])
    return image


GREYS = Image.fromarray(np.array([[0, 7, 255]], np.uint8))
RED_GREEN_BLUE = [[[250, 0, 0], [0, 250, 0], [0, 0, 250]]]
WITHOUT_GREEN = [[[250, 0, 0], [255, 255, 255], [0, 0, 250]]]
WITHOUT_THE_FIRST = np.where(np.arange(6).reshape(2, 3, 1) == 0, 255, COLOURS)
REDS = Image.fromarray(np.array([[[200, 0, 0, a] for a in (255, 0, 51)]], np.uint8))
GREYS_AND_ALPHA = Image.fromarray(np.array([[[100, a] for a in (255, 0, 51)]], np.uint8))


@pytest.mark.parametrize(
    ("image", "mode", "options", "expected"),
    [
        (GREYS, "L", {}, [[[0] * 3, [7] * 3, [255] * 3]]),
        (GREYS.point(lambda value: value // 255, "1"), "1", {}, [[[0] * 3, [0] * 3, [255] * 3]]),
        (GREYS, "L", {"transparency": 7}, [[[0] * 3, [255] * 3, [255] * 3]]),
        (rgb(), "RGB", {"transparency": (250, 10, 20)}, WITHOUT_THE_FIRST),
        (palette_image(), "P", {}, RED_GREEN_BLUE),
        (palette_image(), "P", {"transparency": bytes([255, 0, 255])}, WITHOUT_GREEN),
        (REDS, "RGBA", {}, [[[200, 0, 0], [255] * 3, [244, 204, 204]]]),
        (GREYS_AND_ALPHA, "LA", {}, [[[100] * 3, [255] * 3, [224] * 3]]),
    ],
)
def test_modes_of_png_over_white(tmp_path, image, mode, options, expected):
    found = decoded(saved(tmp_path / "a.png", image, mode, **options))
    np.testing.assert_allclose(found, expected, atol=1 if mode in ("RGBA", "LA") else 0)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces(tmp_path, mode):
    image = Image.new("RGB", (16, 16), (200, 60, 40))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    image = image.convert(mode)
    found = [decoded(saved(tmp_path / "a.tif", image, mode))]
    if mode == "CMYK":
        # Pillow writes it as Adobe does: inverted, with the Adobe marker.
        found.append(decoded(saved(tmp_path / "a.jpg", image, mode, quality=95)))
        assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    for pixels, atol in zip(found, (0, 3) if mode == "CMYK" else (4,), strict=True):
        np.testing.assert_allclose(pixels[8, 8], [200, 60, 40], atol=atol)


# No file format of Pillow's opens in these modes, but plug-ins may.
@pytest.mark.parametrize("mode", ["HSV", "PA", "La", "RGBa", "RGBX", "I;16B"])
def test_modes_without_a_file_format(mode, monkeypatch):
    between = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, "RGB")
    image = Image.new("RGB", (1, 1), "#333333").convert(between)
    if mode == "I;16B":
        image = Image.frombytes(mode, (1, 1), np.array([51 * 257], ">u2").tobytes())
    elif mode != between:
        image = image.convert(mode)
    assert image.mode == mode
    monkeypatch.setattr(Image, "open", lambda *_, **__: image)
    np.testing.assert_allclose(decoded(io.BytesIO()), [[[51, 51, 51]]], atol=2)


DEEP = np.array([[0, 257, 32896], [65535, 300, 60000]], np.uint16)


def test_16_bit_grey_is_scaled(tmp_path):
    for path in (tmp_path / "a.png", tmp_path / "a.tif"):
        assert_grey(saved(path, Image.fromarray(DEEP), "I;16"), np.rint(DEEP / 257))
    big_endian = tmp_path / "a.pgm"
    big_endian.write_bytes(b"P5 3 2 65535\n" + DEEP.astype(">u2").tobytes())
    assert_grey(big_endian, np.rint(DEEP / 257))
    Image.fromarray(DEEP).save(tmp_path / "a.png", transparency=257)
    assert_grey(tmp_path / "a.png", np.where(DEEP == 257, 255, np.rint(DEEP / 257)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 65535]], np.int32), [[0, 1, 255]]),
        (np.array([[-5, 0, 2**31 - 1]], np.int32), [[0, 0, 255]]),
        (np.array([[0, 35000, 70000]], np.int32), [[0, 128, 255]]),
        ([[0, 0.5, 1]], [[0, 128, 255]]),
        ([[0, 0.5, 200]], [[0, 0, 200]]),
        ([[0, 0.5, 1.005]], [[0, 128, 255]]),
        ([[-3, 40, 300]], [[0, 36, 255]]),
        ([[10, 100, 1000]], [[3, 26, 255]]),
        ([[0, 65535, np.inf]], [[0, 255, 255]]),
        ([[-1, 0, 1]], [[0, 128, 255]]),
        ([[-5, -5, -5]], [[0, 0, 0]]),
        ([[np.nan, 0.2, 1]], [[0, 51, 255]]),
    ],
)
def test_32_bit_and_float_greys_are_scaled(tmp_path, values, expected):
    mode = "I" if isinstance(values, np.ndarray) else "F"
    image = Image.fromarray(values if mode == "I" else np.array(values, np.float32))
    assert_grey(saved(tmp_path / "a.tif", image, mode), expected)


def test_damaged_exif_counts_as_none(tmp_path):
    rgb().save(tmp_path / "a.png", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05\x01\x12")
    np.testing.assert_array_equal(decoded(tmp_path / "a.png"), COLOURS)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(tmp_path / "a.gif")[0, 0], [255, 0, 0])


def jpeg_bytes() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (jpeg_bytes()[:-2000], "truncated"),
        (jpeg_bytes()[:30], "cannot be read"),
        (b"these are only words", "no image format"),
        (b"", "empty"),
        (HEIC.read_bytes()[:400], "damaged"),
    ],
)
def test_damaged_files(tmp_path, content, reason):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    for file, name in ((path, str(path)), (io.BytesIO(content), "the given image")):
        with pytest.raises(DataError, match=reason) as caught:
            decode_image(file)
        assert str(caught.value).startswith(f"{name}: ")
        assert "\n" not in str(caught.value)
    # Damaged pixels are found when they are decoded.
    if reason == "truncated":
        assert EncodedImage(content, "x").size == (64, 64)


def test_missing_file_and_folder(tmp_path):
    for read in (decode_image, read_file):
        with pytest.raises(DataError, match=r"nowhere\.png: .*no such file"):
            read(tmp_path / "nowhere.png")
        with pytest.raises(DataError, match="directory"):
            read(tmp_path)


def test_a_large_image_gives_no_warning_and_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    rgb().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode_image(tmp_path / "a.png")
    assert not caught
    allow_pixels(4)
    with pytest.raises(DataError, match=r"it has 6 pixels, and more than 4 .* --max-pixels 6$"):
        decode_image(tmp_path / "a.png")
    allow_pixels(6)
    decode_image(tmp_path / "a.png")
    allow_pixels(None)
    assert Image.MAX_IMAGE_PIXELS == 3
    with pytest.raises(ConfigError, match="max_pixels is 0; expected at least 1"):
        allow_pixels(0)


def test_postscript_is_never_run(tmp_path):
    rgb().save(tmp_path / "a.eps")
    with pytest.raises(DataError, match="cannot be decoded here"):
        decode_image(tmp_path / "a.eps")


@pytest.mark.parametrize("name", ["a.NEF", "a.jxl", "a.svg"])
def test_a_format_that_cannot_be_decoded_is_told_with_the_remedy(tmp_path, name):
    (tmp_path / name).write_text("<svg>")
    told = f"a {Path(name).suffix.lower()} file, which cannot be decoded here; convert it"
    with pytest.raises(DataError, match=told):
        decode_image(tmp_path / name)


def test_heic_without_its_decoder_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(decoding, "FORMATS", ("JPEG", "PNG"))
    with pytest.raises(DataError, match="it is HEIC, which Pillow does not decode; install pi-h"):
        decode_image(HEIC)


def test_heic_is_upright():
    """``HEIC`` was written by pillow-heif 1.8.1 at quality 90, with the EXIF orientation 6.

    It holds ``smooth(64, 48)``, stored lying on its side.
    """
    found = EncodedImage(HEIC.read_bytes(), "a.heic")
    assert found.size == (64, 48)
    assert np.abs(np.asarray(found.decode()).astype(int) - np.asarray(smooth(64, 48))).mean() < 3


def smooth(height: int, width: int) -> Image.Image:
    """An image of which a fraction of the pixels tells nearly everything; no two corners alike."""
    rows, columns = np.mgrid[:height, :width]
    waves = [rows / height, columns / width, np.sin(rows / 9) * np.cos(columns / 13) / 2 + 0.5]
    return Image.fromarray((20 + 200 * np.stack(waves, axis=-1)).astype(np.uint8))


def encoded(image: Image.Image, image_format: str = "JPEG", **options) -> EncodedImage:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return EncodedImage(stream.getvalue(), "a file")


# What must be done to the stored pixels, in NumPy (EXIF 2.3, 4.6.4 A, "Orientation").
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("MPO", {}),
    ],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_encoded_images_are_upright_in_every_size(orientation, image_format, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = encoded(smooth(40, 72), image_format, exif=exif, **options)
    expected = UPRIGHT[orientation](np.asarray(smooth(40, 72)).astype(int))
    assert image.size == expected.shape[:2]
    whole, reduced = np.asarray(image.decode()), np.asarray(image.decode(4)).astype(int)
    np.testing.assert_array_equal(image.decode(), whole)
    if image_format not in ("JPEG", "MPO"):
        np.testing.assert_array_equal(whole, expected)
        np.testing.assert_array_equal(reduced, expected)
        return
    assert read_header(image._content, "a file") == (image.size, False)
    assert np.abs(whole - expected).mean() < 2
    expected = expected.reshape(reduced.shape[0], 4, reduced.shape[1], 4, 3).mean((1, 3))
    assert np.abs(reduced - expected).mean() < 3


@pytest.mark.parametrize("size", [(96, 160), (101, 67), (8, 9)])
@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_are_reduced_to_the_means_of_blocks(size, reduction, mode):
    image = encoded(smooth(*size).convert(mode), quality=95)
    whole = np.asarray(image.decode()).astype(float)
    reduced = np.asarray(image.decode(reduction)).astype(float)
    assert reduced.shape == (*(-(-side // reduction) for side in size), 3)
    rows, columns = size[0] // reduction, size[1] // reduction
    blocks = whole[: rows * reduction, : columns * reduction]
    means = blocks.reshape(rows, reduction, columns, reduction, 3).mean((1, 3))
    assert np.abs(reduced[:rows, :columns] - means).mean() < 2


def test_an_image_that_is_smaller_than_the_reduction():
    assert encoded(smooth(3, 100)).decode(8).height >= 1
    assert encoded(smooth(1, 1)).decode(8).size == (1, 1)
