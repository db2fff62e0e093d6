"""The confusion matrix as a picture."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from bottleneck_transformer_flax.errors import one_line
from bottleneck_transformer_flax.figures.fonts import find_fonts, legible
from bottleneck_transformer_flax.figures.style import (
    DOTS_PER_INCH,
    FRAME_COLOR,
    INK_COLOR,
    new_figure,
    set_title,
    style_axes,
)

MOST_CLASSES_WITH_NUMBERS = 20
NUMBERED_CELL_INCHES = 0.62
NAME_SPACING_INCHES = 0.19
"""Least distance of names in 7 point at 45 degrees."""
SHORTEST_SIDE_INCHES = 2.4
LONGEST_SIDE_INCHES = 12.0
LONGEST_NAME = 30
MARGIN_INCHES = 0.15
NO_IMAGES_COLOR = "0.88"
LARGEST_SHARE_IN_BLACK = 50
"""In percent; black up to here and white beyond have a contrast of at least 4.5 to the cell."""
LEGEND = "#: number of a class in classes.json, from 0; no font has its name"
COLOR_BAR_TICKS = (0, 1, 5, 10, 20, 40, 60, 80, 100)


def draw_confusion_matrix(
    confusion: Int[np.ndarray, "true_classes predicted_classes"],
    class_names: Sequence[str],
    *,
    split: str = "",
) -> Figure:
    """Draw a confusion matrix, each cell coloured by its percentage of the true class.

    With up to 20 classes, each cell that is not zero shows its percentage and number of images;
    with more, there is a colour bar instead. Where not all names fit, every second, fifth, tenth …
    class is named. Long names are shortened; one that no font of the system has is given by the
    class's number. The row of a class without images is grey.

    Args:
        confusion: numbers of images, at least one in all, true classes by predicted classes.
        class_names: name of each class.
        split: what the images are, for the title: "validation (val/)".
    """
    num_classes = len(class_names)
    counts = confusion.sum(axis=1, keepdims=True)
    percent = np.full(confusion.shape, np.nan)
    np.divide(100.0 * confusion, counts, out=percent, where=counts > 0)

    has_numbers = num_classes <= MOST_CLASSES_WITH_NUMBERS
    cell_inches = NUMBERED_CELL_INCHES if has_numbers else NAME_SPACING_INCHES
    side_inches = min(max(num_classes * cell_inches, SHORTEST_SIDE_INCHES), LONGEST_SIDE_INCHES)
    figure = new_figure(side_inches, side_inches)
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(
        percent,
        cmap=colormaps["Blues"].with_extremes(bad=NO_IMAGES_COLOR),
        # The square root makes one confused image in a hundred visible.
        norm=PowerNorm(0.5, vmin=0, vmax=100),
        aspect="auto",
    )
    if has_numbers:
        _write_numbers(axes, confusion, percent)
    else:
        _add_color_bar(figure, axes, image)
    style_axes(axes)
    _add_titles(axes, confusion, split)
    _name_classes(axes, class_names, side_inches / num_classes, 9 if has_numbers else 7)
    _fit_around(figure, axes)
    return figure


def _write_numbers(
    axes: Axes,
    confusion: Int[np.ndarray, "classes classes"],
    percent: Float[np.ndarray, "classes classes"],
) -> None:
    # Zeros stay empty, so that errors stand out.
    for row, column in np.argwhere(confusion):
        share = percent[row, column]
        share_text = f"{share:.1f} %" if share >= 0.05 else "<0.1 %"
        axes.text(
            column,
            row,
            f"{share_text}\n{confusion[row, column]:,}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if share > LARGEST_SHARE_IN_BLACK else "black",
        )


def _add_color_bar(figure: Figure, axes: Axes, image: AxesImage) -> None:
    beside = axes.inset_axes((1.02, 0, 0.025, 1))
    bar = figure.colorbar(image, cax=beside, ticks=COLOR_BAR_TICKS, format="%g")
    bar.set_label("share of the true class (%)", color=INK_COLOR)
    bar.outline.set_edgecolor(FRAME_COLOR)
    style_axes(beside)


def _name_classes(
    axes: Axes, class_names: Sequence[str], cell_inches: float, font_size: int
) -> None:
    step = _naming_step(NAME_SPACING_INCHES / cell_inches)
    named = range(0, len(class_names), step)
    shown = legible(class_names)[::step]
    if shown != list(map(one_line, class_names[::step])):
        axes.set_xlabel(f"{axes.get_xlabel()}\n{LEGEND}", color=INK_COLOR)
    names = list(map(_shorten, shown))
    fonts: dict[str, Any] = {
        "fontsize": font_size,
        "fontfamily": find_fonts("".join(names)).families,
    }
    # A dollar sign in a class name starts no formula.
    axes.set_yticks(named, names, parse_math=False, **fonts)
    axes.set_xticks(named, names, parse_math=False, **fonts)
    axes.tick_params(length=3 if step > 1 else 0)

    widest_pixels = max(label.get_window_extent().width for label in axes.get_xticklabels())
    if widest_pixels > 0.9 * step * cell_inches * DOTS_PER_INCH:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", va="center", rotation_mode="anchor")


def _naming_step(least: float) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50 … that is at least ``least``."""
    power = int(10 ** max(0, math.floor(math.log10(least))))
    # Room for rounding: side / num_classes may miss the spacing by the last bit.
    return next(step * power for step in (1, 2, 5, 10) if step * power > least - 1e-6)


def _shorten(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1].rstrip(" ,") + "…"


def _add_titles(axes: Axes, confusion: Int[np.ndarray, "classes classes"], split: str) -> None:
    count = int(confusion.sum())
    accuracy = f"{100 * confusion.trace() / count:.2f} %"
    set_title(axes, f"Accuracy {accuracy} on {count:,} images", split)
    blank = " (grey row: no images)" if (confusion.sum(axis=1) == 0).any() else ""
    axes.set_xlabel("predicted class", color=INK_COLOR)
    axes.set_ylabel("true class" + blank, color=INK_COLOR)


def _fit_around(figure: Figure, axes: Axes) -> None:
    """Grow the figure until names and titles fit in; the axes keep their size."""
    side = axes.get_window_extent().width / figure.dpi
    occupied = figure.get_tightbbox()
    # Whole pixels, so that the size of the PNG is the size of the figure.
    width = math.ceil((occupied.width + 2 * MARGIN_INCHES) * figure.dpi) / figure.dpi
    height = math.ceil((occupied.height + 2 * MARGIN_INCHES) * figure.dpi) / figure.dpi
    figure.set_size_inches(width, height)
    left, bottom = MARGIN_INCHES - occupied.x0, MARGIN_INCHES - occupied.y0
    axes.set_position((left / width, bottom / height, side / width, side / height))
