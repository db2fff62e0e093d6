"""Training curves: every value where it belongs, every text readable."""

import math

import numpy as np
import pytest
from matplotlib.text import Text

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.figures.curves import draw_training_curves


def make_history(num_epochs, validate_every=1):
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
        history.append(row)
    return history


def lines_of(figure):
    return [
        {line.get_label(): np.asarray(line.get_xydata()) for line in axes.get_lines()}
        for axes in figure.axes
    ]


@pytest.mark.parametrize("num_epochs", [1, 2, 3, 60])
def test_curves_are_readable(num_epochs, assert_readable):
    figure = draw_training_curves(make_history(num_epochs))
    assert figure.canvas.get_width_height() == (1800, 600)
    texts = assert_readable(figure)
    assert all(tick == round(tick) for axes in figure.axes for tick in axes.get_xticks())
    for text in ("Loss", "Accuracy (%)", "Learning rate"):
        assert texts.count(text) == 1
    assert texts.count("train") == texts.count("validation") == 2
    assert texts.count("epoch") == 3


@pytest.mark.parametrize(
    "change",
    [
        {"train_loss": 1e12},
        {"train_loss": math.nan, "validation_loss": math.nan},
        {"train_loss": math.inf},
        {"validation_loss": math.nan, "validation_accuracy": None},
        {"train_loss": np.float32(3), "epoch": np.int64(3)},
        {"learning_rate": 0.0},
        {"learning_rate": 1e-9, "notes": "other keys are ignored"},
    ],
)
@pytest.mark.parametrize("num_epochs", [1, 3])
def test_odd_values_are_readable(change, num_epochs, assert_readable):
    history = make_history(num_epochs)
    for row in history[-2:]:
        row.update(change)
    figure = draw_training_curves(history)
    assert_readable(figure)
    # No axis has a common factor, which is easily overlooked.
    assert {axes.yaxis.get_offset_text().get_text() for axes in figure.axes} == {""}


def test_lines_hold_the_history():
    history = make_history(6, validate_every=2)
    history[3]["validation_loss"] = None
    loss, accuracy, learning_rate = lines_of(draw_training_curves(history))
    assert set(loss) == set(accuracy) == {"train", "validation"}
    np.testing.assert_array_equal(loss["train"], [(r["epoch"], r["train_loss"]) for r in history])
    np.testing.assert_array_equal(
        loss["validation"], [(e, history[e - 1]["validation_loss"]) for e in (2, 6)]
    )
    np.testing.assert_allclose(
        accuracy["train"], [(r["epoch"], 100 * r["train_accuracy"]) for r in history]
    )
    np.testing.assert_allclose(
        accuracy["validation"],
        [(e, 100 * history[e - 1]["validation_accuracy"]) for e in (2, 4, 6)],
    )
    np.testing.assert_array_equal(
        learning_rate["learning rate"], [(r["epoch"], r["learning_rate"]) for r in history]
    )


def test_few_points_have_markers_and_many_have_none():
    def markers(*history):
        lines = draw_training_curves(make_history(*history)).axes[0].get_lines()
        return "".join(line.get_marker() for line in lines)

    assert [markers(1), markers(20), markers(21), markers(60, 5)] == ["os", "os", "", "s"]


def with_best(history, *epochs):
    return [
        row | {"best": row["epoch"] in epochs} if "validation_accuracy" in row else row
        for row in history
    ]


@pytest.mark.parametrize("num_epochs", [4, 60])
def test_the_best_epoch_has_a_ring_where_a_worse_one_came_after_it(num_epochs, assert_readable):
    history = with_best(make_history(num_epochs), 1, 3)
    figure = draw_training_curves(history)
    loss, accuracy, _ = lines_of(figure)
    np.testing.assert_allclose(accuracy["best"], [(3, 100 * history[2]["validation_accuracy"])])
    assert set(loss) == {"train", "validation"}
    last, best = (100 * history[epoch - 1]["validation_accuracy"] for epoch in (num_epochs, 3))
    assert figure.get_suptitle() == (
        f"Validation accuracy {last:.2f}% after epoch {num_epochs}, best {best:.2f}% after epoch 3"
    )
    assert assert_readable(figure).count("best") == 1
    panel = figure.axes[1]
    (title,) = (text for text in panel.findobj(Text) if text.get_text() == "Accuracy (%)")
    assert title.get_window_extent().x1 < panel.get_legend().get_window_extent().x0


@pytest.mark.parametrize("epochs", [(), (4,), (1, 4)])
def test_without_a_worse_one_after_it_there_is_no_ring(epochs):
    # The fifth epoch was not validated.
    history = make_history(5, validate_every=2)
    history[3]["validation_accuracy"] = 0.91234
    figure = draw_training_curves(with_best(history, *epochs))
    assert set(lines_of(figure)[1]) == {"train", "validation"}
    assert figure.get_suptitle() == "Validation accuracy 91.23% after epoch 4"


def test_runs_without_validation_have_no_validation_curve(assert_readable):
    texts = assert_readable(draw_training_curves(make_history(3, validate_every=9)))
    assert "Training curves" in texts
    assert "validation" not in texts


def test_histories_that_cannot_be_drawn_are_refused():
    with pytest.raises(DataError, match="no epoch"):
        draw_training_curves([])
    history = make_history(3)
    del history[1]["train_loss"]
    history[1]["learning_rate"] = None
    with pytest.raises(DataError, match="row 1 has no train_loss, learning_rate"):
        draw_training_curves(history)
