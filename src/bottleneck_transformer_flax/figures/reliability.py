"""The reliability diagram: accuracy by confidence, with the number of images."""

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bottleneck_transformer_flax.figures.style import (
    INK_COLOR,
    TRAIN_COLOR,
    VALIDATION_COLOR,
    new_figure,
    set_title,
    style_axes,
)

COUNT_COLOR = "0.75"


def draw_reliability_diagram(
    counts: Int[np.ndarray, " bins"],
    accuracies: Float[np.ndarray, " bins"],
    *,
    ece: float,
    split: str = "",
) -> Figure:
    """Draw the accuracy of images by their confidence, above the number of images.

    Bars below the diagonal mean that the model is overconfident, bars above that it is
    underconfident.

    Args:
        counts: number of images in each bin of confidence, at least one in all; the bins have
            equal width and together cover [0, 1].
        accuracies: accuracy of each bin's images, in [0, 1]; ignored without images.
        ece: expected calibration error, in [0, 1]; it may be NaN.
        split: what the images are, for the title: "validation (val/)".
    """
    figure = new_figure(5.6, 5.8)
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.12)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    width, filled = 1 / len(counts), counts > 0
    middles = (np.arange(len(counts)) + 0.5) * width
    bars = {"width": 0.94 * width, "color": TRAIN_COLOR, "label": "accuracy"}
    upper.bar(middles[filled], accuracies[filled], **bars)
    perfect = {"color": VALIDATION_COLOR, "linestyle": "--", "linewidth": 1.6}
    upper.plot([0, 1], [0, 1], label="perfect calibration", **perfect)
    upper.set(xlim=(0, 1), ylim=(0, 1))
    upper.set_ylabel("accuracy", color=INK_COLOR)
    upper.legend(loc="upper left", fontsize=9, frameon=False, labelcolor=INK_COLOR)
    error = "not finite" if np.isnan(ece) else f"{100 * ece:.2f} %"
    title = f"Calibration error (ECE) {error} on {counts.sum():,} images"
    set_title(upper, title, split).set_wrap(True)
    lower.bar(middles, counts, width=0.94 * width, color=COUNT_COLOR)
    _write_counts(lower, middles, counts)
    lower.set_yticks([])
    lower.set_ylabel("images", color=INK_COLOR)
    lower.set_xlabel("confidence: probability of the likeliest class", color=INK_COLOR)
    for axes in (upper, lower):
        style_axes(axes)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _write_counts(
    axes: Axes, middles: Float[np.ndarray, " bins"], counts: Int[np.ndarray, " bins"]
) -> None:
    axes.set_ylim(0, 1.3 * counts.max())
    for middle, count in zip(middles, counts.tolist(), strict=True):
        if count:
            text = f"{count:,}" if count < 10_000 else f"{count / 1000:,.0f}k"
            axes.text(middle, count, text, ha="center", va="bottom", fontsize=6.5, color=INK_COLOR)
