"""One page about a run: an HTML file with everything in it. No jax."""

import base64
import functools
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import NamedTuple

from PIL import Image

MOST_CLASSES = 100
"""A page with more classes shows only the worst and the best."""
WORST_SHOWN, BEST_SHOWN = 50, 10
SMALL_SIDE, LARGE_SIDE = 64, 224
"""In pixels: images up to the small side are enlarged towards the large one, others reduced."""
Fact = tuple[str, str]
"""A name and a value, as they are shown."""


class _Html(str):
    """Text that is HTML already; any other text is escaped before it reaches the page."""


class ClassAccuracy(NamedTuple):
    """Accuracy on the images of one class, in [0, 1]; None without images."""

    name: str
    accuracy: float | None
    images: int


class ShownMistake(NamedTuple):
    """An image that the model takes for another class.

    Attributes:
        picture: a small PNG or JPEG.
        name: path of the image, or its place in the data set.
        true_class: its label.
        predicted_class: the likeliest class.
        probability: probability of the predicted class, in [0, 1].
    """

    picture: bytes
    name: str
    true_class: str
    predicted_class: str
    probability: float


class ConfusedPair(NamedTuple):
    """Number of images of a class taken for another one, also as a fraction of the class."""

    true_class: str
    predicted_class: str
    images: int
    fraction: float


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """Contents of the page; a section without contents is left out.

    Attributes:
        title: heading of the page.
        run: folder of the run.
        notes: what a reader has to know about missing or unusual contents.
        headline: the few figures to see first.
        facts: data, start and model of the run.
        curves: a PNG of the metrics over the epochs.
        split: the split that mistakes, pairs and classes are about.
        mistakes: mistakes in the order to show them in.
        pairs: confused classes in the order to show them in.
        classes: accuracy of each class, in any order.
        confusion: a PNG of the confusion matrix.
        legend: number and name of each class that the confusion matrix gives by its number.
        reliability: a PNG of the reliability diagram.
        options: every option of the run.
    """

    title: str
    run: str
    notes: tuple[str, ...] = ()
    headline: tuple[Fact, ...] = ()
    facts: tuple[Fact, ...] = ()
    curves: bytes | None = None
    split: str = "validation"
    mistakes: tuple[ShownMistake, ...] = ()
    pairs: tuple[ConfusedPair, ...] = ()
    classes: tuple[ClassAccuracy, ...] = ()
    confusion: bytes | None = None
    legend: tuple[Fact, ...] = ()
    reliability: bytes | None = None
    options: tuple[Fact, ...] = ()


def report_page(page: RunPage) -> str:
    """Write the page as self-contained HTML without scripts, for a screen, a phone or paper."""
    curves = "loss, accuracy and learning rate by epoch"
    sections = (
        _picture("Training curves", page.curves, curves),
        _mistakes(page),
        _pairs(page),
        _classes(page),
        _picture(
            "Confusion matrix",
            page.confusion,
            "true classes by predicted classes",
            legend=page.legend,
        ),
        _picture("Calibration", page.reliability, "accuracy by confidence"),
        _fill("options", facts=_facts(page.options)) if page.options else _Html(),
    )
    return _fill(
        "page",
        title=page.title,
        style=_Html(_package_text("report.css")),
        run=page.run,
        notes=_join(_fill("note", text=note) for note in page.notes),
        headline=_join(_fill("headline", name=name, value=value) for name, value in page.headline),
        facts=_facts(page.facts),
        sections=_join(sections),
    )


def thumbnail(image: Image.Image) -> bytes:
    """Encode a small picture of an image; a tiny one is enlarged to show its pixels."""
    encoded = io.BytesIO()
    longest = max(image.size)
    if longest <= SMALL_SIDE:
        times = LARGE_SIDE // longest
        size = (times * image.width, times * image.height)
        image.resize(size, Image.Resampling.NEAREST).save(encoded, "PNG", optimize=True)
    else:
        small = image.copy()
        small.thumbnail((LARGE_SIDE, LARGE_SIDE))
        small.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def _picture(title: str, png: bytes | None, description: str, legend: Sequence[Fact] = ()) -> _Html:
    if png is None:
        return _Html()
    return _fill(
        "picture",
        title=title,
        picture=_data_address(png),
        description=description,
        legend=_fill("legend", facts=_facts(legend)) if legend else _Html(),
    )


def _mistakes(page: RunPage) -> _Html:
    if not page.mistakes:
        return _Html()
    cards = (
        _fill(
            "mistake",
            picture=_data_address(mistake.picture),
            true_class=mistake.true_class,
            predicted_class=mistake.predicted_class,
            probability=_percent(mistake.probability),
            name=mistake.name,
        )
        for mistake in page.mistakes
    )
    return _fill("mistakes", split=page.split, mistakes=_join(cards))


def _pairs(page: RunPage) -> _Html:
    rows = [
        [
            pair.true_class,
            pair.predicted_class,
            f"{pair.images:,}",
            _percent(pair.fraction),
            _bar(pair.fraction),
        ]
        for pair in page.pairs
    ]
    heads = ("class", "taken for", "images", "share of class", "")
    return _table(f"Most confused classes, {page.split}", heads, rows)


def _classes(page: RunPage) -> _Html:
    """Worst first; those without images last, where all can be shown."""
    classes = page.classes
    scored = [(row.accuracy, row) for row in classes if row.accuracy is not None]
    rows = [
        [row.name, f"{row.images:,}", _percent(accuracy), _bar(accuracy)]
        for accuracy, row in sorted(scored, key=lambda pair: pair[0])
    ]
    if len(classes) <= MOST_CLASSES:
        rows += [[row.name, "0", "", ""] for row in classes if row.accuracy is None]
    elif len(rows) > MOST_CLASSES:
        between = len(rows) - WORST_SHOWN - BEST_SHOWN
        gap = [f"… {between:,} more classes …", "", "", ""]
        rows = [*rows[:WORST_SHOWN], gap, *rows[-BEST_SHOWN:]]
    title = f"Accuracy by class, {page.split}, worst first"
    return _table(title, ("class", "images", "accuracy", ""), rows)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> _Html:
    if not rows:
        return _Html()
    head = _join(_fill("head", text=name) for name in heads)
    body = _join(
        _fill("row", cells=_join(_fill("cell", content=cell) for cell in row)) for row in rows
    )
    return _fill("table", title=title, heads=head, rows=body)


def _facts(facts: Iterable[Fact]) -> _Html:
    return _join(_fill("fact", name=name, value=value) for name, value in facts)


def _bar(fraction: float) -> _Html:
    return _fill("bar", width=f"{100 * fraction:.1f}%")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _data_address(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _fill(fragment: str, **values: str) -> _Html:
    """Fill in the placeholders of a fragment of report.html."""
    # A file name may hold what is not UTF-8; it becomes question marks.
    escaped = {
        name: value
        if isinstance(value, _Html)
        else html.escape(value.encode("utf-8", "replace").decode("utf-8"))
        for name, value in values.items()
    }
    return _Html(_fragments()[fragment].substitute(escaped))


def _join(parts: Iterable[_Html]) -> _Html:
    return _Html("\n".join(filter(None, parts)))


@functools.cache
def _fragments() -> dict[str, Template]:
    _, *parts = re.split(r"<!-- fragment: (\w+) -->\n", _package_text("report.html"))
    return {
        name: Template(text.strip()) for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def _package_text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
