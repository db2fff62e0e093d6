"""Training curves: every value where it belongs, every text readable."""

import math

import numpy as np
import pytest
from matplotlib.text import Text

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.figures.curves import draw_training_curves


def make_history(num_epochs, validate_every=1, best=()):
    history = []
    for epoch in range(1, num_epochs + 1):
        progress = epoch / max(num_epochs, 4)
        row = {
            "epoch": epoch,
            "train_loss": 2.3 * math.exp(-3 * progress),
            "train_accuracy": 1 - 0.9 * math.exp(-3 * progress),
            "learning_rate": 5e-4 * (1 + math.cos(math.pi * progress)),
        }
        if epoch % validate_every == 0:
            row |= {"validation_loss": 2 * row["train_loss"], "validation_accuracy": progress / 2}
            row["best"] = epoch in best
        history.append(row)
    return history


def lines_of(figure):
    return [
        {line.get_label(): np.asarray(line.get_xydata()) for line in axes.get_lines()}
        for axes in figure.axes
    ]


@pytest.mark.parametrize(
    ("num_epochs", "change"),
    [
        (1, {}),
        (2, {}),
        (60, {}),
        (1, {"train_loss": math.nan, "validation_loss": math.nan}),
        (3, {"train_loss": 1e12}),
        (3, {"train_loss": math.inf}),
        (3, {"train_loss": np.float32(3), "epoch": np.int64(3)}),
        (1, {"validation_accuracy": None, "learning_rate": 0.0}),
        (3, {"learning_rate": 1e-9, "notes": "other keys are ignored"}),
    ],
)
def test_curves_are_readable(num_epochs, change, assert_readable):
    history = make_history(num_epochs)
    for row in history[-2:]:
        row.update(change)
    figure = draw_training_curves(history)
    assert figure.canvas.get_width_height() == (1800, 600)
    texts = assert_readable(figure)
    assert all(tick == round(tick) for axes in figure.axes for tick in axes.get_xticks())
    # No axis has a common factor, which is easily overlooked.
    assert {axes.yaxis.get_offset_text().get_text() for axes in figure.axes} == {""}
    for text, count in (("Loss", 1), ("Accuracy (%)", 1), ("Learning rate", 1), ("epoch", 3)):
        assert texts.count(text) == count
    assert texts.count("train") == 2
    assert texts.count("validation") == (1 if "validation_accuracy" in change else 2)


def test_lines_hold_the_history():
    history = make_history(6, validate_every=2)
    history[3]["validation_loss"] = None
    loss, accuracy, learning_rate = lines_of(draw_training_curves(history))
    assert set(loss) == set(accuracy) == {"train", "validation"}
    for line, key, epochs, scale in (
        (loss["train"], "train_loss", range(1, 7), 1),
        (loss["validation"], "validation_loss", (2, 6), 1),
        (accuracy["train"], "train_accuracy", range(1, 7), 100),
        (accuracy["validation"], "validation_accuracy", (2, 4, 6), 100),
        (learning_rate["learning rate"], "learning_rate", range(1, 7), 1),
    ):
        expected = [(epoch, scale * history[epoch - 1][key]) for epoch in epochs]
        np.testing.assert_array_equal(line, expected)


def test_few_points_have_markers_and_many_have_none():
    def markers(*history):
        lines = draw_training_curves(make_history(*history)).axes[0].get_lines()
        return "".join(line.get_marker() for line in lines)

    assert [markers(20), markers(21), markers(60, 5)] == ["os", "", "s"]


def test_the_best_epoch_has_a_ring_where_a_worse_one_came_after_it(assert_readable):
    history = make_history(4, best=(1, 3))
    history[3] |= {"validation_accuracy": 0.2, "validation_origin": f"$5 or $6 {'photo-' * 20}/"}
    figure = draw_training_curves(history)
    loss, accuracy, _ = lines_of(figure)
    np.testing.assert_allclose(accuracy["best"], [(3, 37.5)])
    assert set(loss) == {"train", "validation"}
    assert figure.get_suptitle() == (
        f"Validation ($5 or $6 {'photo-' * 20}/) accuracy 20.00 % after epoch 4, "
        "best 37.50 % after epoch 3"
    )
    assert assert_readable(figure).count("best") == 1
    panel = figure.axes[1]
    (title,) = (text for text in panel.findobj(Text) if text.get_text() == "Accuracy (%)")
    assert title.get_window_extent().x1 < panel.get_legend().get_window_extent().x0


@pytest.mark.parametrize("epochs", [(), (2, 4)])
def test_without_a_worse_one_after_it_there_is_no_ring(epochs):
    # The fifth epoch was not validated.
    history = make_history(5, validate_every=2, best=epochs)
    figure = draw_training_curves(history)
    assert set(lines_of(figure)[1]) == {"train", "validation"}
    assert figure.get_suptitle() == "Validation accuracy 40.00 % after epoch 4"


def test_runs_without_validation_have_no_validation_curve(assert_readable):
    texts = assert_readable(draw_training_curves(make_history(3, validate_every=9)))
    assert "Training curves" in texts
    assert "validation" not in texts


def test_a_history_that_lacks_numbers_is_refused():
    history = make_history(3)
    del history[1]["train_loss"]
    history[1]["learning_rate"] = None
    with pytest.raises(DataError, match="row 1 has no train_loss, learning_rate"):
        draw_training_curves(history)
