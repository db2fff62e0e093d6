"""Contact sheets: every image where it belongs, pixel for pixel, every name readable."""

import io

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.figures.contact_sheet import draw_contact_sheet
from bottleneck_transformer_flax.figures.style import png_bytes

LONG_NAME = "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias"
NAMES = ["cat", LONG_NAME, "", "costs $5 or $6", "two\nlines", r"\alpha_1^2"]
TITLE = "photos: crops of 25 to 100 % of $ and $, RandAugment, half of them mirrored, mixup 0.2"


def make_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def places(figure):
    """(left, top, width, height) of every image in pixels, row after row."""
    boxes = [image.get_extent() for image in figure.axes[0].images]
    return [(left, top, right - left, bottom - top) for left, right, bottom, top in boxes]


@pytest.mark.parametrize(
    ("rows", "versions", "size"), [(1, 1, (28, 28)), (6, 6, (224, 224)), (6, 1, (20, 300))]
)
def test_names_and_title_are_readable(rows, versions, size, assert_readable):
    evaluated, trained = make_images(rows, *size), make_images(rows, versions, *size)
    figure = draw_contact_sheet(NAMES[:rows], evaluated, trained, title=TITLE)
    texts = assert_readable(figure)
    assert {"evaluated", "in training", "cat"} <= set(texts)
    assert " ".join(text for text in texts if text in TITLE and text != "cat") == TITLE
    if rows > 1:
        shortened = "great white shark,\nwhite shark, man-\neater, man-eating …"
        assert {shortened, "costs $5 or $6", r"two\nlines", r"\alpha_1^2"} <= set(texts)
    assert not any(text.get_parse_math() for text in figure.axes[0].texts)


@pytest.mark.parametrize(("size", "scale"), [((32, 20), 8), ((1, 3), 85)])
def test_small_images_keep_their_pixels(size, scale):
    evaluated, trained = make_images(2, *size), make_images(2, 3, *size, seed=1)
    figure = draw_contact_sheet(["a", "b"], evaluated, trained, title="title")
    sheet = np.asarray(Image.open(io.BytesIO(png_bytes(figure))).convert("RGB"))
    assert sheet.shape[1::-1] == figure.canvas.get_width_height()
    expected = np.concatenate([evaluated[:, None], trained], axis=1).reshape(8, *size, 3)
    for image, (left, top, width, height) in zip(expected, places(figure), strict=True):
        assert (height, width) == (size[0] * scale, size[1] * scale)
        shown = sheet[top : top + height, left : left + width]
        # The middle of each enlarged pixel: a hairline frames the whole.
        np.testing.assert_array_equal(shown[scale // 2 :: scale, scale // 2 :: scale], image)


@pytest.mark.parametrize(
    ("size", "shown"), [((28, 28), (252, 252)), ((512, 1024), (128, 256)), ((300, 20), (256, 17))]
)
def test_images_stand_in_rows_and_columns_and_large_ones_are_reduced(size, shown):
    figure = draw_contact_sheet(
        ["a", LONG_NAME, "c"], make_images(3, *size), make_images(3, 2, *size), title="title"
    )
    assert {place[:1:-1] for place in places(figure)} == {shown}
    found = np.array(places(figure)).reshape(3, 3, 4)
    assert (found[:, :, 0] == found[:1, :, 0]).all()
    assert (found[:, :, 1] == found[:, :1, 1]).all()
    gaps = np.diff(found[0, :, 0]) - found[0, 0, 2]
    assert gaps[0] > gaps[1] > 0
    assert (np.diff(found[:, 0, 1]) > found[0, 0, 3]).all()
