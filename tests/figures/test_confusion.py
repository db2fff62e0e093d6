"""Confusion matrices: right colours and numbers, every name readable."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bottleneck_transformer_flax.figures.confusion import draw_confusion_matrix

FASHION_MNIST = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
FASHION_MNIST = FASHION_MNIST.split(",")
LONG_NAME = "great white shark, white shark, man-eater, man-eating shark"
ODD_NAMES = ["", "costs $5 or $6", "two\nlines", LONG_NAME, r"\alpha_1^2", "Ünïcödé"]


def make_confusion(num_classes):
    random = np.random.default_rng(0)
    confusion = random.integers(0, 40, (num_classes, num_classes))
    confusion[random.random(confusion.shape) < 0.6] = 0
    return confusion + np.diag(random.integers(500, 1000, num_classes))


def make_names(num_classes):
    """Short and long ones in turn."""
    return [f"{LONG_NAME if index % 3 else 'goldfish'} {index}" for index in range(num_classes)]


def tick_names(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize(
    ("confusion", "names"),
    [
        (make_confusion(1), ["cat"]),
        (make_confusion(10), FASHION_MNIST),
        (make_confusion(6), ODD_NAMES),
        # Numbers that are too wide for their cells would overlap.
        (np.full((20, 20), 1_234_567), make_names(20)),
        (make_confusion(21), make_names(21)),
        (make_confusion(300), make_names(300)),
    ],
)
def test_names_and_numbers_are_readable(confusion, names, assert_readable):
    figure = draw_confusion_matrix(confusion, names)
    texts = assert_readable(figure)
    assert {"predicted class", "true class"} < set(texts)
    cells = figure.axes[0].get_window_extent()
    assert cells.width == pytest.approx(cells.height)
    shown = tick_names(figure.axes[0].yaxis)
    if names is FASHION_MNIST:
        assert all(texts.count(name) == 2 for name in names)
    if names is ODD_NAMES:
        assert shown[:4] == ["", "costs $5 or $6", r"two\nlines", "great white shark, white shar…"]
        assert not any(label.get_parse_math() for label in figure.axes[0].get_xticklabels())


@pytest.mark.parametrize("num_classes", [5, 30])
def test_colours_are_percentages_of_the_true_class_and_grey_without_images(num_classes):
    confusion = make_confusion(num_classes)
    confusion[3] = 0
    figure = draw_confusion_matrix(confusion, make_names(num_classes))
    figure.canvas.draw()
    axes, pixels = figure.axes[0], np.asarray(figure.canvas.buffer_rgba())
    shown = axes.images[0].get_array()
    for row in set(range(num_classes)) - {3}:
        expected = [100 * count / sum(confusion[row].tolist()) for count in confusion[row]]
        np.testing.assert_allclose(shown[row], expected)
    assert "no images" in axes.get_ylabel()
    assert all(text.get_position()[1] != 3 for text in axes.texts)
    for x, y in axes.transData.transform([(column, 3) for column in range(num_classes)]):
        assert pixels[pixels.shape[0] - round(y), round(x), :3].tolist() == [round(0.88 * 255)] * 3


def test_cells_tell_percentage_and_count_and_the_title_the_accuracy():
    confusion = np.array([[9996, 4, 0], [1, 1, 2], [0, 0, 7]])
    axes = draw_confusion_matrix(confusion, ["a", "b", "c"], split="test (test/)").axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "100.0 %\n9,996",
        (1, 0): "<0.1 %\n4",
        (0, 1): "25.0 %\n1",
        (1, 1): "25.0 %\n1",
        (2, 1): "50.0 %\n2",
        (2, 2): "100.0 %\n7",
    }
    assert axes.get_title(loc="left") == "Accuracy 99.93 % on 10,011 images, test (test/)"


def test_numbers_stand_out_from_every_colour():
    """WCAG's contrast of at least 4.5, above all where black turns to white."""

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for share in (1, *range(40, 61, 2), 100):
        axes = draw_confusion_matrix(np.array([[share, 100 - share], [0, 1]]), ["a", "b"]).axes[0]
        paper = luminance(axes.images[0].to_rgba(np.array([[float(share)]]))[0, 0])
        ink = luminance(to_rgb(axes.texts[0].get_color()))
        contrast = (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05)
        assert contrast >= 4.5, share


@pytest.mark.parametrize(
    ("num_classes", "step", "inches"),
    [(2, 1, 2.4), (10, 1, 6.2), (63, 1, 12), (64, 2, 12), (127, 5, 12), (1000, 20, 12)],
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
    for names, rotation in ((["cat", "dog", "emu"], 0), (FASHION_MNIST, 45)):
        axes = draw_confusion_matrix(np.eye(len(names), dtype=int), names).axes[0]
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {rotation}
