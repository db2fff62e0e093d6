"""Reliability diagrams: every bar where it belongs, every text readable."""

import numpy as np
import pytest

from bottleneck_transformer_flax.figures.reliability import draw_reliability_diagram


def bars_of(axes):
    return {round(bar.get_x() + bar.get_width() / 2, 6): bar.get_height() for bar in axes.patches}


@pytest.mark.parametrize(
    "counts",
    [
        [0] * 14 + [1],
        [0] * 7 + [3, 5, 0, 9, 20, 80, 400, 9483],
        [9999] * 15,
        [123_456] * 14 + [9_876_543],
    ],
)
def test_texts_are_readable_and_bars_are_accuracies_above_numbers(counts, assert_readable):
    counts = np.array(counts)
    accuracies = np.where(counts > 0, np.linspace(0, 1, 15), np.nan)
    figure = draw_reliability_diagram(counts, accuracies, ece=0.0123, split="test ($5 or $6/)")
    texts = assert_readable(figure)
    title = f"Calibration error (ECE) 1.23 % on {counts.sum():,} images\ntest ($5 or $6/)"
    assert title in texts
    upper, lower = figure.axes
    middles = [round((index + 0.5) / 15, 6) for index in range(15)]
    expected = dict(zip(middles, accuracies.tolist(), strict=True))
    assert bars_of(upper) == {x: y for x, y in expected.items() if not np.isnan(y)}
    assert bars_of(lower) == dict(zip(middles, counts.tolist(), strict=True))
    assert [text.get_position()[0] for text in lower.texts] == pytest.approx(
        [middle for middle, count in zip(middles, counts, strict=True) if count], abs=1e-6
    )


def test_an_error_that_is_not_finite_is_told_and_a_long_title_wrapped(assert_readable):
    split = f"validation (held out of {'photos-' * 6}folder/)"
    figure = draw_reliability_diagram(np.ones(15, int), np.ones(15), ece=float("nan"), split=split)
    assert any("(ECE) not finite" in text for text in assert_readable(figure))
