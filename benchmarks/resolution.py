"""Score botnet_tiny at other input sizes, its relative tables moved there in several ways.

docs/resolution.md says what is compared and what came of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.options import Results, make_parser, use_cpu
from benchmarks.results import Format, progress
from bottleneck_transformer_flax import Pretrained, load_pretrained, resize_relative_positions
from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.data.datasets import load_parts
from bottleneck_transformer_flax.data.sources.base import VALIDATION, ImageSource
from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.figures.style import (
    INK_COLOR,
    TITLE_FONT_SIZE,
    TRAIN_COLOR,
    VALIDATION_COLOR,
    new_figure,
    style_chart,
)
from bottleneck_transformer_flax.layers.relative_position import resize_table
from bottleneck_transformer_flax.models.surgery import RELATIVE_TABLES, Variables

MODEL = "botnet_tiny"
IMAGE_SIZES = ((14, 14), (21, 21), (28, 28), (42, 42), (42, 56), (56, 56))
BATCH_SIZE = 100
BAR_WIDTH = 0.2

Move = Callable[[Float[Array, "rows d"], int], Float[Array, "new_rows d"]]


def zero_padded(table: Float[Array, "rows d"], length: int) -> Float[Array, "new_rows d"]:
    """Every old offset keeps its row; the farther ones of a longer axis get zeros."""
    return jnp.pad(table, (_rows_added(table, length), (0, 0)))


def clamped(table: Float[Array, "rows d"], length: int) -> Float[Array, "new_rows d"]:
    """Every old offset keeps its row; the farther ones of a longer axis repeat the farthest."""
    return jnp.pad(table, (_rows_added(table, length), (0, 0)), mode="edge")


def cropped(table: Float[Array, "rows d"], length: int) -> Float[Array, "new_rows d"]:
    """Every offset of a shorter axis keeps its row; the farther ones are dropped."""
    centre = len(table) // 2
    return table[centre - length + 1 : centre + length]


def without(table: Float[Array, "rows d"], length: int) -> Float[Array, "new_rows d"]:
    """Zeros: no relative position at all."""
    return jnp.zeros((2 * length - 1, table.shape[1]), table.dtype)


def _rows_added(table: Array, length: int) -> tuple[int, int]:
    added = length - _length(table)
    return (added, added)


def _length(table: Array) -> int:
    """Positions along the axis of a table of 2L − 1 rows."""
    return (len(table) + 1) // 2


MOVES: Mapping[str, tuple[Move, str]] = {
    "as trained": (resize_table, TRAIN_COLOR),
    "interpolated": (resize_table, TRAIN_COLOR),
    "zero-padded": (zero_padded, VALIDATION_COLOR),
    "clamped": (clamped, "#009E73"),
    "cropped": (cropped, "#CC79A7"),
    "none": (without, "0.6"),
}
"""Ways to move a table, each with its colour."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way at one size, and beside it the library's own way on the same images.

    Attributes:
        height: height of the images in pixels; ``width`` likewise.
        grid_height: positions down that attention is over; ``grid_width`` across.
        tables: the way, a name in ``MOVES``.
        count: images.
        top1: fraction of the images that are right.
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


COLUMNS: Mapping[str, tuple[str, Format]] = {
    "top1": ("top-1", lambda top1: f"{100 * top1:.1f} %"),
    "loss": ("loss", lambda loss: f"{loss:.4f}"),
    "only_this_right": ("only this", str),
    "only_library_right": ("only first", str),
    "p_value": ("p", lambda p: f"{p:.3f}"),
    "loss_difference": ("loss difference", lambda difference: f"{difference:+.4f}"),
    "loss_difference_95": ("±", lambda half: f"{half:.4f}"),
}


def ways_between(trained: tuple[int, int], image_size: tuple[int, int]) -> tuple[str, ...]:
    """The names in ``MOVES`` that mean something from one size to another, the library's first."""
    if image_size == trained:
        return ("as trained", "none")
    if image_size[0] >= trained[0] and image_size[1] >= trained[1]:
        return ("interpolated", "zero-padded", "clamped", "none")
    return ("interpolated", "cropped", "none")


def move_tables(old: Variables, resized: Variables, move: Move) -> Variables:
    """Variables with every relative table of ``old``, moved to the grid of ``resized``.

    Args:
        old: variables at the size they were trained at.
        resized: the same at the new size, as ``resize_relative_positions`` gives them.
        move: a function from an old table and a length to the table of an axis of that length.
    """
    params, old_params = flatten_dict(resized["params"]), flatten_dict(old["params"])
    for path, table in params.items():
        if path[-1] in RELATIVE_TABLES:
            params[path] = move(old_params[path], _length(table))
    return dict(resized) | {"params": unflatten_dict(params)}


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """McNemar's exact test: how likely so uneven a split is where either side is as likely.

    Two-sided: twice the smaller tail of Binomial(only_first + only_second, 1/2), at most 1.
    """
    differing = only_first + only_second
    tail = sum(comb(differing, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**differing)


def measure(trained: Pretrained, source: ImageSource, image_size: tuple[int, int]) -> list[Row]:
    """Score every way to move a trained model's tables to one image size; the library's first."""
    model, library = resize_relative_positions(trained.model, trained.variables, image_size)
    preprocessing = trained.preprocessing.replace(size=image_size)
    evaluate = Evaluator(model, preprocessing, batch_size=min(BATCH_SIZE, len(source)))
    predictions = {}
    for name in ways_between(trained.preprocessing.size, image_size):
        variables = move_tables(trained.variables, library, MOVES[name][0])
        found = evaluate(variables, source)
        assert found is not None
        predictions[name] = found
    first = next(iter(predictions.values()))
    grid = _grid(library)
    return [compare(each, first, name, image_size, grid) for name, each in predictions.items()]


def compare(
    found: Predictions,
    first: Predictions,
    tables: str,
    image_size: tuple[int, int],
    grid: tuple[int, int],
) -> Row:
    """The row of one way beside the library's."""
    right, first_right = (each.top_classes[:, 0] == each.labels for each in (found, first))
    only_this, only_library = int((right & ~first_right).sum()), int((first_right & ~right).sum())
    differences = found.losses.astype(np.float64) - first.losses
    return Row(
        height=image_size[0],
        width=image_size[1],
        grid_height=grid[0],
        grid_width=grid[1],
        tables=tables,
        count=found.count,
        top1=found.top1,
        loss=round(found.loss, 6),
        only_this_right=only_this,
        only_library_right=only_library,
        p_value=round(mcnemar_p_value(only_this, only_library), 6),
        loss_difference=round(float(differences.mean()), 6),
        loss_difference_95=round(1.96 * float(differences.std(ddof=1)) / found.count**0.5, 6),
    )


def _grid(variables: Variables) -> tuple[int, int]:
    """Height and width of the grid that the first attention block is over."""
    tables: dict[str, int] = {}
    for path, table in flatten_dict(variables["params"]).items():
        if path[-1] in RELATIVE_TABLES:
            tables.setdefault(path[-1], _length(table))
    return tables["relative_height"], tables["relative_width"]


def draw(rows: Sequence[Row]) -> Figure:
    """Draw every way's accuracy by size and, beside it, its loss minus the library's."""
    figure = new_figure(12.0, 4.6)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    accuracy, loss = figure.subplots(1, 2)
    sizes = list(dict.fromkeys((row.height, row.width) for row in rows))
    for place, size in enumerate(sizes):
        of_size = [row for row in rows if (row.height, row.width) == size]
        for row, x in _side_by_side(of_size, place):
            accuracy.bar(x, 100 * row.top1, 0.9 * BAR_WIDTH, color=MOVES[row.tables][1])
        for row, x in _side_by_side(of_size[1:], place):
            half, color = row.loss_difference_95, MOVES[row.tables][1]
            loss.errorbar(x, row.loss_difference, half, fmt="o", markersize=4.5, color=color)
    loss.axhline(0, color=INK_COLOR, linewidth=0.8)
    accuracy.set_ylim(0, 100)
    _finish(accuracy, sizes, "Top-1 accuracy (%)")
    _finish(loss, sizes, "Loss minus that of interpolated tables, with 95 % intervals")
    names = {MOVES[row.tables][1]: row.tables for row in rows}
    figure.legend(
        handles=[Patch(color=color, label=name) for color, name in names.items()],
        loc="outside lower center",
        ncols=len(names),
        frameon=False,
        labelcolor=INK_COLOR,
    )
    figure.suptitle(
        f"{MODEL}, trained at 28 × 28, at other sizes: {rows[0].count:,} images",
        fontsize=TITLE_FONT_SIZE,
        color=INK_COLOR,
    )
    return figure


def _side_by_side(rows: Sequence[Row], place: int) -> Iterable[tuple[Row, float]]:
    """Each row with its place on the axis, a bar's width apart."""
    middle = (len(rows) - 1) / 2
    return [(row, place + BAR_WIDTH * (index - middle)) for index, row in enumerate(rows)]


def _finish(axes: Axes, sizes: Sequence[tuple[int, int]], title: str) -> None:
    style_chart(axes, title)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_xticks(range(len(sizes)), [f"{height} × {width}" for height, width in sizes])
    axes.set_xlabel("input size in pixels (height × width)", color=INK_COLOR)


def run(arguments: Sequence[str]) -> int:
    """Measure every way at every size."""
    use_cpu()
    options = make_parser("resolution", __doc__).parse_args(arguments)
    results = Results(options, "resolution", draw=draw, columns=COLUMNS)
    trained, source = load_pretrained(MODEL), load_parts("embedded")[VALIDATION]
    rows: list[Row] = []
    with progress() as say:
        for size in IMAGE_SIZES:
            say(f"{size[0]} × {size[1]} pixels")
            rows += measure(trained, source, size)
    results.add(rows)
    return results.finish()
