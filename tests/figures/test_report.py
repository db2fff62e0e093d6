"""The page about a run: everything on it is what was given, and nothing is outside it."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.figures.report import (
    ClassAccuracy,
    ConfusedPair,
    RunPage,
    ShownMistake,
    report_page,
    thumbnail,
)
from reference.html_pages import assert_self_contained

PNG, JPEG = b"\x89PNG\r\n\x1a\n a picture", b"\xff\xd8\xff a photograph"
CLASS_HEADS = ["class", "images", "accuracy", ""]
ODD = "<b>\"dogs\" & 'cats'</b><script>"
FULL = RunPage(
    title=f"botnet_tiny on {ODD}",
    run=f"runs/{ODD}",
    notes=(f"a note on {ODD}",),
    headline=(("test accuracy", "73.50 %"), (f"name {ODD}", f"value {ODD}")),
    facts=(("data", ODD), ("epochs", "2 of 2")),
    curves=PNG + b" of curves",
    classes=(
        ClassAccuracy("ant", 0.75, 1200),
        ClassAccuracy(ODD, 0.25, 8),
        ClassAccuracy("none", None, 0),
        ClassAccuracy("bee", 0.5, 4),
    ),
    mistakes=(
        ShownMistake(JPEG, f"data/{ODD}/1.jpg", ODD, "ant", 0.987),
        # A file's name may be no text.
        ShownMistake(PNG, "data/bee/od\udcffd.png", "bee", ODD, 0.5),
    ),
    pairs=(ConfusedPair(ODD, "ant", 1234, 0.125),),
    confusion=PNG + b" of confusion",
    legend=(("#1", ODD),),
    reliability=PNG + b" of reliability",
    options=(("input.image_size", "[28, 28]"), ("data", ODD)),
)


def address(kind, picture):
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def test_everything_given_is_on_the_page_and_nothing_else_is_loaded():
    """Classes are worst first, each with its bar."""
    text = report_page(dataclasses.replace(FULL, split="test"))
    page = assert_self_contained(text.encode().decode())
    assert page.texts_in("title") == page.texts_in("h1") == [f"botnet_tiny on {ODD}"]
    assert [image["src"] for image in page.of("img")] == [
        address("png", PNG + b" of curves"),
        address("jpeg", JPEG),
        address("png", PNG),
        address("png", PNG + b" of confusion"),
        address("png", PNG + b" of reliability"),
    ]
    assert {f"runs/{ODD}", f"a note on {ODD}"} <= set(page.texts_in("p"))
    assert "Most confident mistakes, test" in page.texts_in("h2")
    assert page.texts_in("dt") == ["test accuracy", f"name {ODD}"]
    assert page.texts_in("dd") == ["73.50 %", f"value {ODD}"]
    assert page.texts_in("strong") == [ODD, "ant", "bee", ODD]
    assert page.texts_in("small") == [f"data/{ODD}/1.jpg", "data/bee/od?d.png"]
    assert "taken for , 98.7 %" in "".join(page.texts_in("figcaption"))
    for row in (
        ["data", ODD],
        ["epochs", "2 of 2"],
        [ODD, "ant", "1,234", "12.5 %", ""],
        ["input.image_size", "[28, 28]"],
        ["#1", ODD],
    ):
        assert row in page.rows
    start = page.rows.index(CLASS_HEADS) + 1
    assert page.rows[start : start + 4] == [
        [ODD, "8", "25.0 %", ""],
        ["bee", "4", "50.0 %", ""],
        ["ant", "1,200", "75.0 %", ""],
        ["none", "0", "", ""],
    ]
    bars = [span["style"] for span in page.of("span") if "style" in span]
    assert bars == [f"width: {percent}%" for percent in (12.5, 25.0, 50.0, 75.0)]


@pytest.mark.parametrize(
    ("scored", "empty", "shown"),
    [(99, 1, 100), (60, 41, 60), (100, 1, 100), (101, 1, "41"), (1100, 1, "1,040")],
)
def test_of_more_than_a_hundred_scored_classes_the_worst_and_the_best_are_shown(
    scored, empty, shown
):
    """All classes where there is room for all, without those that have no images where not."""
    classes = [ClassAccuracy(f"c{i}", i / scored, 2) for i in range(scored)]
    names = [f"c{i}" for i in range(scored)] + [f"e{i}" for i in range(empty)]
    classes += [ClassAccuracy(f"e{i}", None, 0) for i in range(empty)]
    page = assert_self_contained(report_page(RunPage(title="t", run="r", classes=tuple(classes))))
    if isinstance(shown, int):
        expected = names[:shown]
    else:
        expected = [*names[:50], f"… {shown} more classes …", *names[scored - 10 : scored]]
    assert [row[0] for row in page.rows] == [CLASS_HEADS[0], *expected]


def test_what_is_not_known_has_no_section():
    page = assert_self_contained(report_page(RunPage(title="t", run="r")))
    assert page.texts_in("h2") == page.of("img") == page.of("details") == []
    assert assert_self_contained(report_page(FULL)).texts_in("h2") == [
        "Training curves",
        f"Most confident mistakes, {FULL.split}",
        f"Most confused classes, {FULL.split}",
        f"Accuracy by class, {FULL.split}, worst first",
        "Confusion matrix",
        "Calibration",
    ]


@pytest.mark.parametrize(
    ("size", "expected", "kind"),
    [
        ((64, 10), (192, 30), "PNG"),
        ((65, 50), (65, 50), "JPEG"),
        ((448, 100), (224, 50), "JPEG"),
    ],
)
def test_large_images_are_made_small_and_small_ones_keep_their_pixels(size, expected, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    with Image.open(io.BytesIO(thumbnail(Image.fromarray(pixels)))) as made:
        assert (made.format, made.size) == (kind, expected)
        if kind == "PNG":
            times = expected[0] // size[0]
            np.testing.assert_array_equal(np.asarray(made)[::times, ::times], pixels)
