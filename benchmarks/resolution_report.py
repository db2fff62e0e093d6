"""What resolution.py measured: as a table, as a CSV and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bottleneck_transformer_flax.axes import Float
from bottleneck_transformer_flax.figures.style import (
    INK_COLOR,
    TITLE_FONT_SIZE,
    TRAIN_COLOR,
    VALIDATION_COLOR,
    new_figure,
    style_axes,
)

# Of Okabe and Ito's palette, as the figures of the package.
COLORS = {
    "as trained": TRAIN_COLOR,
    "interpolated": TRAIN_COLOR,
    "zero-padded": VALIDATION_COLOR,
    "clamped": "#009E73",
    "cropped": "#CC79A7",
    "none": "0.6",
}
BAR_WIDTH = 0.2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way at one size, and beside it the library's own way on the same images.

    Attributes:
        height: of the images in pixels; ``width`` alike.
        grid_height: positions that attention is over, down; ``grid_width`` across.
        tables: the way, a name in ``MOVES``.
        count: images.
        top1: fraction of them that are right.
        loss: mean cross-entropy in nats.
        only_this_right: images that are right here and wrong the library's way.
        only_library_right: the reverse.
        p_value: of McNemar's exact test, two-sided.
        loss_difference: mean of this loss − the library's, image by image.
        loss_difference_95: half the width of its 95 % interval.
    """

    height: int
    width: int
    grid_height: int
    grid_width: int
    tables: str
    count: int
    top1: float
    loss: float
    only_this_right: int
    only_library_right: int
    p_value: float
    loss_difference: float
    loss_difference_95: float


def table_text(rows: Sequence[Row]) -> str:
    """The rows as a table in plain text, an empty line before each size."""
    lines = [
        f"{'':<47}compared with the first of the size",
        f"{'pixels':<8} {'grid':<6} {'tables':<13} {'top-1':<7} {'loss':<7}"
        "  only this  only that      p  loss difference",
    ]
    before = None
    for row in rows:
        size = f"{row.height} × {row.width}", f"{row.grid_height} × {row.grid_width}"
        line = f"{row.tables:<13} {100 * row.top1:4.1f} %  {row.loss:.4f}"
        if size != before:
            lines += ["", f"{size[0]:<8} {size[1]:<6} {line}"]
        else:
            right = f"{row.only_this_right:9}  {row.only_library_right:9}  {row.p_value:.3f}"
            loss = f"{row.loss_difference:+.4f} ± {row.loss_difference_95:.4f}"
            lines.append(f"{'':<15} {line}   {right}  {loss}")
        before = size
    return "\n".join(lines)


def draw_resolution(rows: Sequence[Row]) -> Figure:
    """Draw every way's accuracy by size and, beside it, its loss minus the library's."""
    figure = new_figure(12.0, 4.6)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    accuracy, loss = figure.subplots(1, 2)
    sizes = list(dict.fromkeys((row.height, row.width) for row in rows))
    for position, size in enumerate(sizes):
        of_size = [row for row in rows if (row.height, row.width) == size]
        _draw_accuracies(accuracy, of_size, position)
        _draw_loss_differences(loss, of_size[1:], position)
    loss.axhline(0, color=INK_COLOR, linewidth=0.8)
    accuracy.set_ylim(0, 100)
    _finish_panel(accuracy, sizes, "Top-1 accuracy (%), with the lowest and highest of each size")
    _finish_panel(loss, sizes, "Loss minus that of interpolated tables, with 95 % intervals")
    _add_legend(figure, rows)
    figure.suptitle(
        f"botnet_tiny, trained at 28 × 28, at other sizes: {rows[0].count:,} test images",
        fontsize=TITLE_FONT_SIZE,
        color=INK_COLOR,
    )
    return figure


def _draw_accuracies(axes: Axes, rows: Sequence[Row], position: int) -> None:
    for row, x in zip(rows, position + _beside_each_other(len(rows)), strict=True):
        axes.bar(x, 100 * row.top1, 0.9 * BAR_WIDTH, color=COLORS[row.tables])
    top = 100 * max(row.top1 for row in rows)
    axes.text(position, top + 1.5, _range_text(rows), ha="center", fontsize=8, color=INK_COLOR)


def _draw_loss_differences(axes: Axes, rows: Sequence[Row], position: int) -> None:
    for row, x in zip(rows, position + _beside_each_other(len(rows)), strict=True):
        axes.errorbar(
            x,
            row.loss_difference,
            row.loss_difference_95,
            fmt="o",
            markersize=4.5,
            color=COLORS[row.tables],
        )


def _beside_each_other(count: int) -> Float[np.ndarray, " count"]:
    """Places around 0, a bar's width apart."""
    places: Float[np.ndarray, " count"] = BAR_WIDTH * (np.arange(count) - (count - 1) / 2)
    return places


def _range_text(rows: Sequence[Row]) -> str:
    lowest, highest = (100 * end(row.top1 for row in rows) for end in (min, max))
    return f"{lowest:.1f}" if lowest == highest else f"{lowest:.1f}–{highest:.1f}"


def _finish_panel(axes: Axes, sizes: Sequence[tuple[int, int]], title: str) -> None:
    style_axes(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc="left", color=INK_COLOR)
    axes.set_xticks(range(len(sizes)), [f"{height} × {width}" for height, width in sizes])
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set_xlabel("input size in pixels (height × width)", color=INK_COLOR)


def _add_legend(figure: Figure, rows: Sequence[Row]) -> None:
    names = {row.tables for row in rows}
    labels = {color: name for name, color in COLORS.items() if name in names}
    labels[COLORS["interpolated"]] = "interpolated (28 × 28: as trained)"
    labels[COLORS["none"]] = "no relative position"
    figure.legend(
        handles=[Patch(color=color, label=label) for color, label in labels.items()],
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        labelcolor=INK_COLOR,
    )
