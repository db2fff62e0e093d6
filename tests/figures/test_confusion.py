"""Confusion matrices: right colours and numbers, every name readable."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.figures.confusion import draw_confusion_matrix

FASHION_MNIST = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
FASHION_MNIST = FASHION_MNIST.split(",")
LONG_NAME = "great white shark, white shark, man-eater, man-eating shark"


def make_confusion(num_classes, seed=0):
    generator = np.random.default_rng(seed)
    confusion = generator.integers(0, 40, (num_classes, num_classes))
    confusion[generator.random(confusion.shape) < 0.6] = 0
    return confusion + np.diag(generator.integers(500, 1000, num_classes))


def make_names(num_classes):
    """Short and long ones in turn."""
    return [f"{LONG_NAME if index % 3 else 'goldfish'} {index}" for index in range(num_classes)]


def tick_names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("num_classes", [1, 2, 10, 20, 21, 64, 300])
def test_names_and_numbers_are_readable(num_classes, assert_readable):
    names = FASHION_MNIST if num_classes == 10 else make_names(num_classes)
    figure = draw_confusion_matrix(make_confusion(num_classes), names)
    texts = assert_readable(figure)
    assert {"predicted class", "true class"} < set(texts)
    assert num_classes != 10 or all(texts.count(name) == 2 for name in names)
    cells = figure.axes[0].get_window_extent()
    assert cells.width == pytest.approx(cells.height)


def test_colours_are_percentages_of_the_true_class():
    confusion = make_confusion(7)
    confusion[4] = 0
    shown = draw_confusion_matrix(confusion, make_names(7)).axes[0].images[0].get_array()
    for row in range(7):
        for column in range(7):
            if row == 4:
                assert shown.mask[row, column]
            else:
                share = 100 * confusion[row, column] / sum(confusion[row].tolist())
                assert shown[row, column] == pytest.approx(share)


def test_cells_tell_percentage_and_count():
    confusion = np.array([[9996, 4, 0], [1, 1, 2], [0, 0, 7]])
    figure = draw_confusion_matrix(confusion, ["a", "b", "c"])
    written = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert written == {
        (0, 0): "100.0%\n9996",
        (1, 0): "<0.1%\n4",
        (0, 1): "25.0%\n1",
        (1, 1): "25.0%\n1",
        (2, 1): "50.0%\n2",
        (2, 2): "100.0%\n7",
    }


def test_numbers_fit_into_their_cells():
    axes = draw_confusion_matrix(np.full((20, 20), 1_234_567), make_names(20)).axes[0]
    assert len(axes.texts) == 400
    widest = max(text.get_window_extent().width for text in axes.texts)
    assert widest < axes.get_window_extent().width / 20


def test_numbers_stand_out_from_every_colour():
    """WCAG's contrast of at least 4.5, above all where black turns to white."""

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for share in (1, 30, 45, *range(49, 53), 55, 70, 100):
        axes = draw_confusion_matrix(np.array([[share, 100 - share], [0, 1]]), ["a", "b"]).axes[0]
        paper = luminance(axes.images[0].to_rgba(np.array([[float(share)]]))[0, 0])
        ink = luminance(to_rgb(axes.texts[0].get_color()))
        contrast = (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05)
        assert contrast >= 4.5, share


@pytest.mark.parametrize("num_classes", [5, 30])
def test_class_without_images_is_a_blank_grey_row(num_classes):
    confusion = make_confusion(num_classes)
    confusion[3] = 0
    figure = draw_confusion_matrix(confusion, make_names(num_classes))
    figure.canvas.draw()
    axes, pixels = figure.axes[0], np.asarray(figure.canvas.buffer_rgba())
    assert "no images" in axes.get_ylabel()
    assert all(text.get_position()[1] != 3 for text in axes.texts)
    for x, y in axes.transData.transform([(column, 3) for column in range(num_classes)]):
        assert pixels[pixels.shape[0] - round(y), round(x), :3].tolist() == [round(0.88 * 255)] * 3


@pytest.mark.parametrize(
    ("num_classes", "step", "inches"),
    [
        (2, 1, 2.4),
        (10, 1, 6.2),
        (63, 1, 12),
        (64, 2, 12),
        (126, 2, 12),
        (127, 5, 12),
        (1000, 20, 12),
    ],
)
def test_names_are_thinned_as_the_side_is_bounded(num_classes, step, inches):
    names = [f"class {index}" for index in range(num_classes)]
    figure = draw_confusion_matrix(np.eye(num_classes, dtype=int), names)
    axes = figure.axes[0]
    assert tick_names(axes.xaxis) == tick_names(axes.yaxis) == names[::step]
    assert axes.get_xticks().tolist() == list(range(0, num_classes, step))
    assert axes.get_window_extent().width / figure.dpi == pytest.approx(inches, abs=0.03)
    assert max(figure.canvas.get_width_height()) < 16 * 150


def test_names_stay_level_where_they_fit():
    def rotations(names):
        axes = draw_confusion_matrix(np.eye(len(names), dtype=int), names).axes[0]
        return {label.get_rotation() for label in axes.get_xticklabels()}

    assert rotations(["cat", "dog", "emu"]) == {0}
    assert rotations(FASHION_MNIST) == {45}


def test_odd_names(assert_readable):
    names = ["", "costs $5 or $6", "two\nlines", LONG_NAME, r"\alpha_1^2", "Ünïcödé"]
    figure = draw_confusion_matrix(make_confusion(6), names)
    assert_readable(figure)
    shown = tick_names(figure.axes[0].yaxis)
    assert shown[:3] == ["", "costs $5 or $6", "two lines"]
    assert shown[3] == "great white shark, white shar…"
    assert not any(label.get_parse_math() for label in figure.axes[0].get_xticklabels())


def test_title_tells_the_accuracy():
    figure = draw_confusion_matrix(np.array([[900, 100], [25, 975]]), ["a", "b"])
    assert figure.axes[0].get_title(loc="left") == "93.75% of 2,000 images right"


@pytest.mark.parametrize(
    ("confusion", "names", "message"),
    [
        (np.ones((2, 3), int), "ab", r"shape \(2, 3\); expected \(2, 2\)"),
        (np.ones((3, 3), int), "ab", r"shape \(3, 3\); expected \(2, 2\)"),
        (np.array([[1, -2], [0, 1]]), "ab", "negative number, -2"),
        (np.zeros((2, 2), int), "ab", "no images"),
        (np.zeros((0, 0), int), "", "no images"),
    ],
)
def test_matrices_that_cannot_be_drawn_are_refused(confusion, names, message):
    with pytest.raises(DataError, match=message):
        draw_confusion_matrix(confusion, list(names))
