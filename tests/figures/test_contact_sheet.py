"""Contact sheets: every image where it belongs, pixel for pixel, every name readable."""

import io

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.figures.contact_sheet import draw_contact_sheet
from bottleneck_transformer_flax.figures.style import png_bytes

LONG_NAME = "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias"
TITLE = "photos: crops of 25 to 100 % of the area, RandAugment, half of them mirrored, mixup 0.2"


def make_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def places(figure):
    """(left, top, width, height) of every image in pixels, row after row."""
    boxes = [image.get_extent() for image in figure.axes[0].images]
    return [(left, top, right - left, bottom - top) for left, right, bottom, top in boxes]


@pytest.mark.parametrize(
    ("rows", "versions", "size"),
    [(1, 1, (28, 28)), (8, 6, (28, 28)), (3, 4, (224, 224)), (2, 1, (300, 20)), (2, 3, (20, 300))],
)
def test_names_and_title_are_readable(rows, versions, size, assert_readable):
    names = [f"{LONG_NAME if row % 2 else 'cat'}" for row in range(rows)]
    evaluated, trained = make_images(rows, *size), make_images(rows, versions, *size)
    texts = assert_readable(draw_contact_sheet(names, evaluated, trained, title=TITLE))
    assert {"evaluated", "in training"} <= set(texts)
    assert " ".join(text for text in texts if text in TITLE and text != "cat") == TITLE
    assert texts.count("cat") == (rows + 1) // 2
    if rows > 1:
        assert "great white shark,\nwhite shark, man-\neater, man-eating …" in texts


@pytest.mark.parametrize(("size", "scale"), [((28, 28), 9), ((32, 20), 8), ((1, 3), 85)])
def test_small_images_keep_their_pixels(size, scale):
    evaluated, trained = make_images(2, *size), make_images(2, 3, *size, seed=1)
    figure = draw_contact_sheet(["a", "b"], evaluated, trained, title="title")
    sheet = np.asarray(Image.open(io.BytesIO(png_bytes(figure))).convert("RGB"))
    assert sheet.shape[1::-1] == figure.canvas.get_width_height()
    found = places(figure)
    assert len(found) == 8
    for row in range(2):
        for column in range(4):
            left, top, width, height = found[4 * row + column]
            assert (height, width) == (size[0] * scale, size[1] * scale)
            shown = sheet[top : top + height, left : left + width]
            # The middle of each enlarged pixel: a hairline frames the whole.
            middles = shown[scale // 2 :: scale, scale // 2 :: scale]
            expected = evaluated[row] if column == 0 else trained[row, column - 1]
            np.testing.assert_array_equal(middles, expected)


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


def test_odd_names(assert_readable):
    names = ["", "costs $5 or $6", "two\nlines", r"\alpha_1^2"]
    figure = draw_contact_sheet(
        names, make_images(4, 8, 8), make_images(4, 1, 8, 8), title="a $ and a $"
    )
    texts = assert_readable(figure)
    assert not any(text.get_parse_math() for text in figure.axes[0].texts)
    assert set(texts) >= {"a $ and a $", "costs $5 or $6", "two lines", r"\alpha_1^2"}


@pytest.mark.parametrize(
    ("names", "evaluated", "trained"),
    [(0, 0, (0, 3)), (1, 2, (2, 3)), (2, 2, (1, 3)), (2, 1, (2, 3)), (1, 1, (1, 0))],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_what_does_not_belong_together_is_refused(names, evaluated, trained):
    counts = f"{names} names, {evaluated} evaluated images and {trained[0]} rows of {trained[1]}"
    with pytest.raises(DataError, match=counts):
        draw_contact_sheet(
            ["a"] * names, make_images(evaluated, 4, 4), make_images(*trained, 4, 4), title=""
        )
