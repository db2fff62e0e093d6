"""Training curves: loss, accuracy and learning rate by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.figures.fonts import find_fonts
from bottleneck_transformer_flax.figures.style import (
    INK_COLOR,
    TITLE_FONT_SIZE,
    TRAIN_COLOR,
    VALIDATION_COLOR,
    new_figure,
    style_chart,
)

History = Sequence[Mapping[str, Any]]

REQUIRED_KEYS = ("epoch", "train_loss", "train_accuracy", "learning_rate")
MOST_POINTS_WITH_MARKERS = 20


def draw_training_curves(history: History) -> Figure:
    """Draw loss, accuracy and learning rate by epoch, side by side.

    Args:
        history: one mapping per epoch with the numbers ``epoch``, ``train_loss``,
            ``train_accuracy``, ``learning_rate`` and, in the epochs with validation,
            ``validation_loss`` and ``validation_accuracy``. Accuracies are fractions in [0, 1].
            ``validation_origin`` says what the validation images are, as in "val/".
            ``best`` marks a model better than all before it; the last such epoch gets a
            ring, unless it is the last one validated. Other keys are ignored; a value that is
            infinite or NaN leaves a gap.

    Raises:
        DataError: when an epoch lacks a number other than a validation value.
    """
    _check(history)
    figure = new_figure(12.0, 4.0)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    loss, accuracy, learning_rate = figure.subplots(1, 3)

    splits = (("train", TRAIN_COLOR, "o"), ("validation", VALIDATION_COLOR, "s"))
    for split, color, marker in splits:
        _draw_curve(loss, history, f"{split}_loss", color, marker, split)
        _draw_curve(accuracy, history, f"{split}_accuracy", color, marker, split, scale=100.0)
    if (best := _best_before_the_last(history)) is not None:
        place = (best["epoch"], 100.0 * float(best["validation_accuracy"]))
        ring = {"markersize": 9, "markerfacecolor": "none", "clip_on": False}
        accuracy.plot(*place, "o", color=INK_COLOR, label="best", **ring)
    _draw_curve(learning_rate, history, "learning_rate", INK_COLOR, "o", "learning rate")
    learning_rate.set_ylim(bottom=0)

    _finish_panel(loss, history, "Loss")
    _finish_panel(accuracy, history, "Accuracy (%)")
    _finish_panel(learning_rate, history, "Learning rate")
    for axes in (loss, accuracy):
        _add_legend(axes)
    title = _title(history)
    fonts = find_fonts(title)
    style = {"fontsize": TITLE_FONT_SIZE, "fontfamily": fonts.families, "color": INK_COLOR}
    # A dollar sign in a folder's name starts no formula.
    figure.suptitle(fonts.legible(title), parse_math=False, wrap=True, **style)
    return figure


def _add_legend(axes: Axes) -> None:
    """Above the panel, beside its title, where no curve can pass."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(axes.get_lines()),
        fontsize=9,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.0,
        borderaxespad=0,
        frameon=False,
        labelcolor=INK_COLOR,
    )


def _check(history: History) -> None:
    for index, row in enumerate(history):
        missing = [key for key in REQUIRED_KEYS if row.get(key) is None]
        if missing:
            raise DataError(
                f"training history row {index} has no {', '.join(missing)}; expected a number in "
                f"every epoch for each of {', '.join(REQUIRED_KEYS)}"
            )


def _draw_curve(
    axes: Axes,
    history: History,
    key: str,
    color: str,
    marker: str,
    label: str,
    scale: float = 1.0,
) -> None:
    # Epochs without a value are left out, so that validation every few epochs still forms a line.
    rows = [row for row in history if row.get(key) is not None]
    if not rows:
        return
    axes.plot(
        [row["epoch"] for row in rows],
        [scale * float(row[key]) for row in rows],
        color=color,
        marker=marker if len(rows) <= MOST_POINTS_WITH_MARKERS else "",
        markersize=4.5,
        linewidth=1.6,
        # The frame would hide half of a learning rate of zero.
        clip_on=False,
        label=label,
    )


def _finish_panel(axes: Axes, history: History, title: str) -> None:
    style_chart(axes, title)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_xlabel("epoch", color=INK_COLOR)
    # Plain numbers: a common factor above the axis is easily overlooked.
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if len({row["epoch"] for row in history}) == 1:
        axes.set_xlim(history[0]["epoch"] - 0.5, history[0]["epoch"] + 0.5)
        axes.set_xticks([history[0]["epoch"]])


def _title(history: History) -> str:
    validated = _validated(history)
    if not validated:
        return "Training curves"
    origin = validated[-1].get("validation_origin")
    title = f"Validation {f'({origin}) ' if origin else ''}accuracy {_after(validated[-1])}"
    best = _best_before_the_last(history)
    return title if best is None else f"{title}, best {_after(best)}"


def _after(row: Mapping[str, Any]) -> str:
    return f"{100 * float(row['validation_accuracy']):.2f} % after epoch {row['epoch']}"


def _validated(history: History) -> list[Mapping[str, Any]]:
    return [row for row in history if row.get("validation_accuracy") is not None]


def _best_before_the_last(history: History) -> Mapping[str, Any] | None:
    """The epoch with the best validation accuracy, where a worse one came after it."""
    validated = _validated(history)
    best = [row for row in validated if row.get("best")]
    return best[-1] if best and best[-1] is not validated[-1] else None
