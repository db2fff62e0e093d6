"""A contact sheet: images of a data set as evaluation and as training see them."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bottleneck_transformer_flax.figures.fonts import find_fonts
from bottleneck_transformer_flax.figures.style import (
    DOTS_PER_INCH,
    INK_COLOR,
    TITLE_FONT_SIZE,
    new_figure,
)

# All in pixels of the picture.
LONGEST_SIDE = 256
LEAST_PITCH = 110
GAP = 6
GAP_AFTER_EVALUATED = 26
MARGIN = 24
LINE_HEIGHT = 32
HEADING_HEIGHT, HEADING_SPACE = 27, 16

NAME_COLUMNS, NAME_LINES = 20, 3
NAME_FONT_SIZE = 9
HEADING_FONT_SIZE = 8
HEADING_COLOR = "0.45"
EDGE_COLOR = "0.85"
HEADINGS = ("evaluated", "in training")


def draw_contact_sheet(
    names: Sequence[str],
    evaluated: UInt8[np.ndarray, "rows h w 3"],
    trained: UInt8[np.ndarray, "rows versions h w 3"],
    *,
    title: str,
) -> Figure:
    """Draw a row for each image: its name, how evaluation sees it, and how training sees it.

    An image takes up to 256 pixels of the picture along its longer side. Small images are enlarged
    by a whole number, so that their pixels stay exact.

    Args:
        names: name of each row, usually the class; long ones are shortened, and characters that no
            font of the system has are given as "?", as they are in the title.
        evaluated: each image as evaluation sees it, RGB in [0, 255].
        trained: versions of each image as training sees it, RGB in [0, 255].
        title: title of the sheet.
    """
    height, width = _shown_size(evaluated.shape[1], evaluated.shape[2])
    pitch = max(width, LEAST_PITCH) + GAP
    fonts = find_fonts(title + "".join(names))
    labels = [_label(fonts.legible(name)) for name in names]
    extents = [_extent(label, fonts.families) for label in labels]
    label_widths, label_heights = zip(*extents, strict=True)
    lefts = _lefts(MARGIN + max(label_widths) + 3 * GAP, pitch, trained.shape[1])
    total_width = lefts[-1] + pitch + MARGIN
    title_lines = _title_lines(fonts.legible(title), total_width)
    top = MARGIN + LINE_HEIGHT * len(title_lines) + HEADING_SPACE + HEADING_HEIGHT
    row_height = max(height, max(label_heights)) + GAP
    total_height = top + row_height * len(names) + MARGIN

    figure = new_figure(total_width / DOTS_PER_INCH, total_height / DOTS_PER_INCH)
    axes = _pixel_axes(figure, total_width, total_height)
    for number, line in enumerate(title_lines):
        style = {"fontsize": TITLE_FONT_SIZE, "fontfamily": fonts.families}
        _write(axes, MARGIN, MARGIN + LINE_HEIGHT * number, line, **style)
    for heading, left in zip(HEADINGS, lefts, strict=False):
        style = {"fontsize": HEADING_FONT_SIZE, "color": HEADING_COLOR}
        _write(axes, left, top - HEADING_HEIGHT, heading, **style)
    for row, label in enumerate(labels):
        middle = top + row_height * row + (row_height - GAP) // 2
        style = {"fontsize": NAME_FONT_SIZE, "fontfamily": fonts.families}
        _write(axes, MARGIN, middle, label, va="center", **style)
        for left, image in zip(lefts, [evaluated[row], *trained[row]], strict=True):
            _show(axes, image, left, middle - height // 2, width, height)
    return figure


def _pixel_axes(figure: Figure, width: int, height: int) -> Axes:
    """Axes over the whole figure that count its pixels from the top left corner."""
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_autoscale_on(False)
    axes.set_axis_off()
    return axes


def _lefts(left: int, pitch: int, versions: int) -> list[int]:
    """Left edge of each column: the evaluated image, then the versions after a wider gap."""
    first = left + pitch + GAP_AFTER_EVALUATED
    return [left, *(first + pitch * version for version in range(versions))]


def _write(axes: Axes, left: int, top: int, text: str, **style: Any) -> None:
    # A dollar sign in a class name starts no formula.
    defaults: dict[str, Any] = {"color": INK_COLOR, "va": "top", "parse_math": False}
    axes.text(left, top, text, **defaults | style)


def _show(
    axes: Axes, image: UInt8[np.ndarray, "h w 3"], left: int, top: int, width: int, height: int
) -> None:
    axes.imshow(
        image,
        extent=(left, left + width, top + height, top),
        aspect="auto",
        interpolation="nearest" if height >= image.shape[0] else "antialiased",
    )
    # The edge of an image that is as white as the paper stays visible.
    edge = Rectangle((left, top), width, height, fill=False, edgecolor=EDGE_COLOR, linewidth=0.5)
    axes.add_patch(edge)


def _shown_size(height: int, width: int) -> tuple[int, int]:
    """Height and width that an image has on the sheet."""
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return height * int(scale), width * int(scale)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _label(name: str) -> str:
    """Break a name into a few short lines."""
    return "\n".join(
        textwrap.wrap(name, NAME_COLUMNS, max_lines=NAME_LINES, placeholder=" …") or [""]
    )


def _extent(text: str, families: list[str]) -> tuple[int, int]:
    """Measure the width and height of a name in pixels."""
    style: dict[str, Any] = {"fontsize": NAME_FONT_SIZE, "fontfamily": families}
    drawn = new_figure(1.0, 1.0).text(0, 0, text, parse_math=False, **style)
    box = drawn.get_window_extent()
    return round(box.width), round(box.height)


def _title_lines(title: str, width: int) -> list[str]:
    """Break the title into lines that fit between the margins."""
    # A letter is about half as wide as high.
    letter = 0.55 * TITLE_FONT_SIZE * DOTS_PER_INCH / 72
    return textwrap.wrap(title, max(10, int((width - 2 * MARGIN) / letter)))
