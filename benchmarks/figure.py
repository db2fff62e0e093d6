"""Implementations side by side: bars for a few cases, lines for many."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from benchmarks.results import Row
from bottleneck_transformer_flax.figures.style import (
    INK_COLOR,
    TITLE_FONT_SIZE,
    TRAIN_COLOR,
    new_figure,
    style_chart,
)

Case = tuple[str, int | None, int | None, int | None]
Rows = Sequence[Row]
MOST_CASES_AS_BARS = 3
# Okabe and Ito's other colours, in the order in which implementations come after the first.
OTHER_COLORS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.4", "0.7")
MARKERS = "os^Dv<>p"


def draw(rows: Rows) -> Figure:
    """Draw the rates of a few cases as bars, or times or rates, and memory, of many as lines."""
    rows = [row for row in rows if row.seconds is not None]
    names = list(dict.fromkeys(row.implementation for row in rows))
    colors = dict(zip(names, (TRAIN_COLOR, *OTHER_COLORS), strict=False))
    cases = list(dict.fromkeys(map(_case, rows)))
    title = rows[0].benchmark
    if len(cases) <= MOST_CASES_AS_BARS:
        figure = new_figure(4.6 * len(cases) + 1.0, 1.4 + 0.4 * len(names))
        panels = figure.subplots(1, len(cases), squeeze=False)[0]
        for axes, case in zip(panels, cases, strict=True):
            _draw_bars(axes, [row for row in rows if _case(row) == case], colors)
    else:
        title += f": {rows[0].case}"
        figure = new_figure(12.0, 4.4)
        left, right = figure.subplots(1, 2)
        if _by_size(rows):
            _draw_lines(left, rows, colors, "time per call (ms)", _milliseconds)
        else:
            _draw_lines(left, rows, colors, "images per second", lambda row: row.per_second)
        _draw_lines(right, rows, colors, "peak memory of the process (MB)", _megabytes)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside right upper", frameon=False, labelcolor=INK_COLOR
        )
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    figure.suptitle(title, fontsize=TITLE_FONT_SIZE, color=INK_COLOR)
    return figure


def _case(row: Row) -> Case:
    return row.case, row.height, row.width, row.batch_size


def _draw_bars(axes: Axes, rows: Rows, colors: Mapping[str, str]) -> None:
    for place, row in enumerate(rows):
        rate = row.per_second or 0.0
        axes.barh(place, rate, 0.7, color=colors[row.implementation])
        number = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        axes.text(rate, place, f" {number}", va="center", fontsize=8, color=INK_COLOR)
    axes.set_yticks(range(len(rows)), [row.implementation for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(row.per_second or 0.0 for row in rows))
    case, height, width, batch_size = _case(rows[0])
    unit = "grids" if rows[0].benchmark.startswith("attention") else "images"
    style_chart(axes, f"{case}\n{unit} of {height} × {width} per second, batch {batch_size}")


def _draw_lines(
    axes: Axes,
    rows: Rows,
    colors: Mapping[str, str],
    title: str,
    value_of: Callable[[Row], float | None],
) -> None:
    by_size = _by_size(rows)

    def place(row: Row) -> int:
        return (row.height or 0) * (row.width or 0) if by_size else (row.batch_size or 0)

    for marker, (name, color) in zip(MARKERS, colors.items(), strict=False):
        points = sorted(
            (place(row), value)
            for row in rows
            if row.implementation == name and (value := value_of(row)) is not None
        )
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, marker, ls="-", ms=4.5, color=color, label=name)
    axes.set_xscale("log", base=2)
    if by_size:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(bottom=0)
    ticks = {place(row): f"{row.height} × {row.width}" if by_size else place(row) for row in rows}
    axes.set_xticks(list(ticks), list(map(str, ticks.values())), fontsize=8)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(color="0.92", linewidth=0.8)
    unit = "positions" if rows[0].benchmark.startswith("attention") else "pixels"
    axes.set_xlabel(unit if by_size else "batch size", color=INK_COLOR)
    style_chart(axes, title)


def _by_size(rows: Rows) -> bool:
    """Whether the cases differ in their size, else in their batch."""
    return len({(row.height, row.width) for row in rows}) > 1


def _milliseconds(row: Row) -> float | None:
    return None if row.seconds is None else 1e3 * row.seconds


def _megabytes(row: Row) -> float | None:
    return None if row.memory_bytes is None else row.memory_bytes / 1e6
