"""Implementations beside each other: bars for a few cases, lines over many."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.figures.style import (
    INK_COLOR,
    TITLE_FONT_SIZE,
    TRAIN_COLOR,
    new_figure,
    save_png,
    style_axes,
)

Rows = Sequence[Mapping[str, Any]]

MOST_CASES_AS_BARS = 3
# Okabe and Ito's other colours, in the order in which implementations come after the first.
OTHER_COLORS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.4", "0.7")
MARKERS = "os^Dv<>p"
LINE_STYLES = ("-", "--", ":", "-.")


def plot_benchmark(rows: Rows, path: str | os.PathLike[str]) -> None:
    """Write ``draw_benchmark(rows)`` to ``path`` as a PNG.

    Raises:
        DataError: as ``draw_benchmark``.
        ConfigError: when ``path`` is not a PNG in an existing folder that can be written.
    """
    save_png(draw_benchmark(rows), path)


def draw_benchmark(rows: Rows) -> Figure:
    """Draw the throughput of a few cases as bars; of many, as lines, memory and time or throughput.

    Args:
        rows: of one workload: mappings with the fields of ``rounds.Row``.

    Raises:
        DataError: when there are no rows.
    """
    if not rows:
        raise DataError("the benchmark has no rows; expected at least one to draw")
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    colors = dict(zip(names, (TRAIN_COLOR, *OTHER_COLORS), strict=False))
    cases = list(dict.fromkeys(_case(row) for row in rows))
    if len(cases) <= MOST_CASES_AS_BARS:
        figure = new_figure(4.6 * len(cases) + 1.0, 1.4 + 0.4 * len(names))
        panels = figure.subplots(1, len(cases), squeeze=False)[0]
        for axes, case in zip(panels, cases, strict=True):
            _draw_bars(axes, [row for row in rows if _case(row) == case], colors)
    else:
        figure = new_figure(12.0, 4.4)
        left, right = figure.subplots(1, 2)
        if _of_positions(rows):
            _draw_lines(left, rows, colors, "time of a call (ms)", _milliseconds)
        else:
            _draw_lines(left, rows, colors, "images a second", lambda row: row["images_per_second"])
        _draw_lines(right, rows, colors, "memory of the process (MB)", _peak_megabytes)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside right upper", frameon=False, labelcolor=INK_COLOR
        )
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    figure.suptitle(
        f"{rows[0]['workload']} of {rows[0]['variant']}", fontsize=TITLE_FONT_SIZE, color=INK_COLOR
    )
    return figure


def _case(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return row["height"], row["width"], row["batch_size"]


def _draw_bars(axes: Axes, rows: Rows, colors: Mapping[str, str]) -> None:
    height, width, batch_size = _case(rows[0])
    for place, row in enumerate(rows):
        rate = row["images_per_second"]
        axes.barh(place, rate, 0.7, color=colors[row["implementation"]])
        number = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        axes.text(rate, place, f" {number}", va="center", fontsize=8, color=INK_COLOR)
    axes.set_yticks(range(len(rows)), [row["implementation"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(row["images_per_second"] for row in rows))
    unit = "grids" if rows[0]["workload"].startswith("attention") else "images"
    _finish(axes, f"{unit} of {height} × {width} a second, batch {batch_size}")


def _draw_lines(
    axes: Axes,
    rows: Rows,
    colors: Mapping[str, str],
    title: str,
    value_of: Callable[[Mapping[str, Any]], float | None],
) -> None:
    of_positions = _of_positions(rows)

    def place(row: Mapping[str, Any]) -> int:
        position: int = row["height"] * row["width"] if of_positions else row["batch_size"]
        return position

    batches = sorted({row["batch_size"] for row in rows}) if of_positions else [None]
    for marker, (name, color) in zip(MARKERS, colors.items(), strict=False):
        for batch_size, style in zip(batches, itertools.cycle(LINE_STYLES)):
            points = sorted(
                (place(row), value)
                for row in rows
                if row["implementation"] == name
                and batch_size in (None, row["batch_size"])
                and (value := value_of(row)) is not None
            )
            label = name if len(batches) == 1 else f"{name}, batch {batch_size}"
            if points:
                xs, ys = zip(*points, strict=True)
                axes.plot(xs, ys, marker, ls=style, ms=4.5, color=color, label=label)
    axes.set_xscale("log", base=2)
    if of_positions:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    ticks = {place(row): _size_name(row) if of_positions else place(row) for row in rows}
    axes.set_xticks(list(ticks), list(map(str, ticks.values())), fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(color="0.92", linewidth=0.8)
    unit = "positions" if rows[0]["workload"].startswith("attention") else "pixels"
    axes.set_xlabel(unit if of_positions else "batch size", color=INK_COLOR)
    _finish(axes, title)


def _of_positions(rows: Rows) -> bool:
    """Whether the cases differ in their size, else in their batch."""
    return len({row["height"] * row["width"] for row in rows}) > 1


def _size_name(row: Mapping[str, Any]) -> str:
    height, width = row["height"], row["width"]
    return f"{height}²" if height == width else f"{height} × {width}"


def _milliseconds(row: Mapping[str, Any]) -> float:
    return 1e3 * float(row["p50_seconds"])


def _peak_megabytes(row: Mapping[str, Any]) -> float | None:
    count = row["peak_memory_bytes"]
    return None if count is None else count / 1e6


def _finish(axes: Axes, title: str) -> None:
    style_axes(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc="left", color=INK_COLOR)
