"""What last_stage.py measured: as a table in plain text and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as students_t

from bottleneck_transformer_flax.figures.style import (
    INK_COLOR,
    TITLE_FONT_SIZE,
    TRAIN_COLOR,
    VALIDATION_COLOR,
    new_figure,
    style_axes,
)

COLORS = {"convolution": VALIDATION_COLOR, "attention": TRAIN_COLOR}


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One network with one seed after one epoch.

    Attributes:
        network: what its last stage does.
        seed: of its variables, of the images' order and of their augmentation.
        epoch: from 1.
        parameters: of the network.
        multiply_adds: of the network, for one image.
        train_loss: over the epoch.
        test_loss: of the averaged variables, after it.
        top1: likewise, as a fraction of the test images.
    """

    network: str
    seed: int
    epoch: int
    parameters: int
    multiply_adds: int
    train_loss: float
    test_loss: float
    top1: float


def last_epochs(rows: Sequence[EpochRow]) -> dict[str, list[EpochRow]]:
    """Of every network its last rows, in the order of the seeds."""
    last = {(row.network, row.seed): row for row in sorted(rows, key=lambda row: row.epoch)}
    networks = dict.fromkeys(row.network for row in rows)
    return {name: [last[key] for key in sorted(last) if key[0] == name] for name in networks}


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of normal values, and half the width of its 95 % interval by Student's t."""
    quantile = float(students_t.ppf(0.975, len(values) - 1))
    return mean(values), quantile * stdev(values) / len(values) ** 0.5


def differences(last: dict[str, list[EpochRow]]) -> list[float]:
    """Attention's accuracy minus convolution's, seed by seed."""
    pairs = zip(last["attention"], last["convolution"], strict=True)
    return [attention.top1 - convolution.top1 for attention, convolution in pairs]


def summary_text(rows: Sequence[EpochRow]) -> str:
    """The last epochs as a table in plain text, and the difference beneath."""
    last = last_epochs(rows)
    lines = [
        f"{'last stage':<12} {'parameters':>10} {'multiply-adds':>14} {'train loss':>11} "
        f"{'test loss':>10}  {'top-1 of each seed':<22} mean",
    ]
    for name, of_network in last.items():
        accuracies = "  ".join(f"{100 * row.top1:.2f}" for row in of_network)
        lines.append(
            f"{name:<12} {of_network[0].parameters:>10,} {of_network[0].multiply_adds:>14,} "
            f"{mean(row.train_loss for row in of_network):>11.4f} "
            f"{mean(row.test_loss for row in of_network):>10.4f}  {accuracies:<22} "
            f"{100 * mean(row.top1 for row in of_network):.2f} %"
        )
    middle, half = mean_and_interval(differences(last))
    lines += [
        "",
        f"attention − convolution: {100 * middle:+.2f} ± {100 * half:.2f} points of accuracy "
        f"(95 % interval of {len(differences(last))} pairs, Student's t)",
    ]
    return "\n".join(lines)


def draw_last_stage(rows: Sequence[EpochRow], data: str) -> Figure:
    """Draw accuracy over the epochs, and beside it the last one's, seed by seed."""
    figure = new_figure(11.0, 4.4)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    curves, ends = figure.subplots(1, 2, width_ratios=(3, 2))
    last = last_epochs(rows)
    for name, of_network in last.items():
        for seed in (row.seed for row in of_network):
            run = [row for row in rows if (row.network, row.seed) == (name, seed)]
            _draw_run(curves, run, label=name if seed == of_network[0].seed else None)
    for pair in zip(*last.values(), strict=True):
        _draw_pair(ends, pair)
    _finish_panel(curves, "Top-1 accuracy on the test images (%), a line for each seed")
    curves.set_xlabel("epoch", color=INK_COLOR)
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend(frameon=False, labelcolor=INK_COLOR, loc="lower right")
    _finish_panel(ends, "After the last epoch, equal seeds joined")
    ends.set_xticks(range(len(last)), list(last))
    ends.set_xlim(-0.5, len(last) - 0.5)
    figure.suptitle(
        f"The last stage of a small network: convolution or attention ({data}, "
        f"{len(differences(last))} seeds)",
        fontsize=TITLE_FONT_SIZE,
        color=INK_COLOR,
    )
    return figure


def _draw_run(axes: Axes, rows: Sequence[EpochRow], *, label: str | None) -> None:
    axes.plot(
        [row.epoch for row in rows],
        [100 * row.top1 for row in rows],
        color=COLORS[rows[0].network],
        linewidth=1.4,
        marker="o",
        markersize=3.5,
        label=label,
    )


def _draw_pair(axes: Axes, pair: Sequence[EpochRow]) -> None:
    """The networks' accuracies with one seed, joined."""
    accuracies = [100 * row.top1 for row in pair]
    axes.plot(range(len(pair)), accuracies, color="0.8", linewidth=1, zorder=1)
    for x, (row, accuracy) in enumerate(zip(pair, accuracies, strict=True)):
        axes.scatter(x, accuracy, color=COLORS[row.network], s=28, zorder=2)


def _finish_panel(axes: Axes, title: str) -> None:
    style_axes(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc="left", color=INK_COLOR)
