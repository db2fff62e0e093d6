"""Where a model looks: its attention over a photograph, head by head."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bottleneck_transformer_flax.figures.fonts import find_fonts
from bottleneck_transformer_flax.figures.style import INK_COLOR, TRAIN_COLOR, new_figure

MOST_CLASSES = 5
_HEADING: dict[str, Any] = {"fontsize": 8, "color": INK_COLOR}
_MAP_COLORS, _TABLE_COLORS = "inferno", "RdBu_r"
_MARK_COLOR = "#00E5FF"
_PANEL_INCHES, _LABEL_INCHES = 1.45, 0.95


class AttentionFrom(NamedTuple):
    """Where the heads of a block look from one position.

    Attributes:
        position: (row, column) of the query in the block's grid.
        rows: a title for each kind of attention, and its maps by head, each at least 0.
    """

    position: tuple[int, int]
    rows: Sequence[tuple[str, Float[np.ndarray, "n h w"]]]


def draw_attention(
    photo: Image.Image,
    *,
    title: str,
    ranking: Sequence[tuple[str, float]],
    overviews: Sequence[tuple[str, Float[np.ndarray, "h w"]]],
    views: Sequence[AttentionFrom],
    tables: Sequence[tuple[str, Float[np.ndarray, "rows d"]]],
) -> Figure:
    """Draw a photograph, what the model takes it for, and where its heads look.

    Every map is drawn over the photograph from its smallest to its largest value, so that
    brightness tells where within a picture, and says nothing between pictures.

    Args:
        photo: what the model sees.
        title: title of the picture.
        ranking: likeliest classes with their probabilities, best first.
        overviews: title and map of what is drawn beside the photograph.
        views: where the heads look, from each position.
        tables: title and values of each relative table.
    """
    heads = len(views[0].rows[0][1])
    columns = max(4, heads)
    panel = _PANEL_INCHES, _PANEL_INCHES * photo.height / photo.width
    rows = 1 + sum(len(view.rows) for view in views) + 1
    width = _LABEL_INCHES + columns * (panel[0] + 0.08) + 0.15
    height = 0.45 + rows * (panel[1] + 0.24) + 0.1
    figure = new_figure(width, height)
    fonts = find_fonts(title + "".join(name for name, _ in ranking))

    def place(row: float, column: float, wide: float = 1.0) -> Axes:
        left = _LABEL_INCHES + column * (panel[0] + 0.08)
        bottom = height - 0.45 - row * (panel[1] + 0.24) - panel[1] - 0.14
        box = left / width, bottom / height, wide * panel[0] / width, panel[1] / height
        return figure.add_axes(box)

    figure.text(
        0.15 / width,
        1 - 0.28 / height,
        fonts.legible(title),
        fontsize=11,
        color=INK_COLOR,
        fontfamily=fonts.families,
        parse_math=False,
    )
    axes = place(0, 0)
    axes.imshow(photo)
    _frame(axes, "what the model sees")
    for view in views:
        _mark(axes, photo, view)
    for column, (heading, values) in enumerate(overviews, start=1):
        axes = place(0, column)
        _overlay(axes, photo, values)
        _frame(axes, heading)
    bars = place(0, 1 + len(overviews) + 0.05, columns - 1.05 - len(overviews))
    _draw_ranking(bars, [(fonts.legible(name), value) for name, value in ranking], fonts.families)
    row = 1
    for view in views:
        for index, (heading, maps) in enumerate(view.rows):
            for head, values in enumerate(maps):
                axes = place(row, head)
                _overlay(axes, photo, values)
                _mark(axes, photo, view)
                _frame(axes, f"head {head + 1}" if index == 0 else "")
                if head == 0:
                    axes.set_ylabel(heading, **_HEADING)
            row += 1
    for index, (heading, values) in enumerate(tables):
        half = columns / len(tables)
        _draw_table(place(row, index * half, half - 0.12), heading, values)
    return figure


def _frame(axes: Axes, heading: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(heading, loc="left", pad=3, **_HEADING)


def _overlay(axes: Axes, photo: Image.Image, values: Float[np.ndarray, "h w"]) -> None:
    """A map over the darkened grey photograph."""
    extent = (0, photo.width, photo.height, 0)
    grey = np.asarray(photo.convert("L"), np.float32) / 255
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=extent)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1.0)
    axes.imshow(
        scaled,
        cmap=_MAP_COLORS,
        vmin=0,
        vmax=1,
        alpha=0.62,
        extent=extent,
        interpolation="bilinear",
    )


def _mark(axes: Axes, photo: Image.Image, view: AttentionFrom) -> None:
    """The position that the heads look from."""
    grid = view.rows[0][1].shape[-2:]
    row, column = view.position
    axes.plot(
        (column + 0.5) * photo.width / grid[1],
        (row + 0.5) * photo.height / grid[0],
        marker="s",
        markersize=5,
        markerfacecolor="none",
        markeredgecolor=_MARK_COLOR,
        markeredgewidth=1.3,
    )


def _draw_ranking(axes: Axes, ranking: Sequence[tuple[str, float]], families: list[str]) -> None:
    ranking = ranking[:MOST_CLASSES]
    places = range(len(ranking))
    axes.barh(places, [value for _, value in ranking], color=TRAIN_COLOR, height=0.28)
    for place, (name, value) in zip(places, ranking, strict=True):
        axes.text(
            0,
            place - 0.26,
            f"{name}  {100 * value:.1f} %",
            fontsize=8,
            color=INK_COLOR,
            fontfamily=families,
            va="bottom",
            parse_math=False,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(max(3, len(ranking)) - 0.4, -0.8)
    axes.set_axis_off()


def _draw_table(axes: Axes, heading: str, values: Float[np.ndarray, "rows d"]) -> None:
    """Embeddings by offset, with offset 0 in the middle."""
    most = float(np.abs(values).max()) or 1.0
    farthest = (len(values) - 1) // 2
    axes.imshow(
        values.T,
        cmap=_TABLE_COLORS,
        vmin=-most,
        vmax=most,
        aspect="auto",
        interpolation="nearest",
        extent=(-farthest - 0.5, farthest + 0.5, values.shape[1] - 0.5, -0.5),
    )
    axes.set_xticks(sorted({-farthest, 0, farthest}))
    axes.set_yticks([])
    axes.tick_params(labelsize=7, colors=INK_COLOR, length=2)
    axes.spines[:].set_visible(False)
    axes.set_title(heading, loc="left", pad=3, **_HEADING)
