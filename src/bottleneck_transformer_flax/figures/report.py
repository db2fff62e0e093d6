"""One page about a run: an HTML file with everything in it. No jax."""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bottleneck_transformer_flax.figures.report_style import STYLE

MOST_CLASSES = 100
"""That are all shown; of more classes only the worst and the best are."""
WORST_SHOWN, BEST_SHOWN = 50, 10
Fact = tuple[str, str]
"""A name and a value, both as they are shown."""

# Nothing is loaded from anywhere and nothing runs, whatever a class is called.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class ClassAccuracy(NamedTuple):
    """How well a class is known; the accuracy is in [0, 1], None without images."""

    name: str
    accuracy: float | None
    images: int


class ShownMistake(NamedTuple):
    """An image that is taken for another class.

    Attributes:
        picture: a small PNG or JPEG.
        name: what the image is called.
        true_class: what it is.
        predicted_class: what it is taken for.
        probability: with which, in [0, 1].
    """

    picture: bytes
    name: str
    true_class: str
    predicted_class: str
    probability: float


class ConfusedPair(NamedTuple):
    """How many images of a class are taken for another one, and which share of it they are."""

    true_class: str
    predicted_class: str
    images: int
    share: float


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """What is on the page; a section of which nothing is known is left out.

    Attributes:
        title: of the page.
        run: the folder that it is about.
        notes: what a reader has to know of what is missing or unusual.
        headline: the few figures to see first.
        facts: what the run was.
        curves: a PNG of the metrics over the epochs.
        classes: in any order.
        mistakes: in the order to show them in.
        pairs: in the order to show them in.
        confusion: a PNG of the confusion matrix.
        options: every option of the run.
    """

    title: str
    run: str
    notes: tuple[str, ...] = ()
    headline: tuple[Fact, ...] = ()
    facts: tuple[Fact, ...] = ()
    curves: bytes | None = None
    classes: tuple[ClassAccuracy, ...] = ()
    mistakes: tuple[ShownMistake, ...] = ()
    pairs: tuple[ConfusedPair, ...] = ()
    confusion: bytes | None = None
    options: tuple[Fact, ...] = ()


def report_page(page: RunPage) -> str:
    """The page as HTML: no script, no link, pictures within it; for a screen, a phone or paper."""
    sections = [
        _header(page),
        _picture(
            "Course of the training", page.curves, "loss, accuracy and learning rate by epoch"
        ),
        _mistakes(page.mistakes),
        _pairs(page.pairs),
        _classes(page.classes),
        _picture("Confusion matrix", page.confusion, "true classes by predicted classes"),
        _options(page.options),
    ]
    body = "\n".join(section for section in sections if section)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{_text(page.title)}</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _header(page: RunPage) -> str:
    notes = "".join(f'<p class="note">{_text(note)}</p>\n' for note in page.notes)
    headline = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>\n"
        for name, value in page.headline
    )
    return (
        f"<header>\n<h1>{_text(page.title)}</h1>\n<p>{_text(page.run)}</p>\n</header>\n{notes}"
        f'<dl class="headline">\n{headline}</dl>\n{_fact_table(page.facts)}'
    )


def _picture(title: str, png: bytes | None, alternative: str) -> str:
    if png is None:
        return ""
    return (
        f'<section>\n<h2>{title}</h2>\n<div class="picture">'
        f'<img src="{_data_address(png)}" alt="{alternative}"></div>\n</section>'
    )


def _mistakes(mistakes: Sequence[ShownMistake]) -> str:
    if not mistakes:
        return ""
    cards = "\n".join(map(_mistake, mistakes))
    return (
        "<section>\n<h2>The surest mistakes</h2>\n"
        "<p>Test images that the model takes for another class, and the probability it gives to "
        "that class. Some of them may be labelled wrongly.</p>\n"
        f'<div class="mistakes">\n{cards}\n</div>\n</section>'
    )


def _mistake(mistake: ShownMistake) -> str:
    true_class, predicted = _text(mistake.true_class), _text(mistake.predicted_class)
    return (
        f'<figure><img src="{_data_address(mistake.picture)}" alt="{true_class}">'
        f"<figcaption><strong>{true_class}</strong><br>taken for <strong>{predicted}</strong>, "
        f"{_percent(mistake.probability)}<small>{_text(mistake.name)}</small></figcaption></figure>"
    )


def _pairs(pairs: Sequence[ConfusedPair]) -> str:
    rows = [
        [
            _text(pair.true_class),
            _text(pair.predicted_class),
            f"{pair.images:,}",
            _percent(pair.share),
            _bar(pair.share),
        ]
        for pair in pairs
    ]
    heads = ("class", "taken for", "images", "of the class", "")
    return _table("Most confused classes", heads, rows)


def _classes(classes: Sequence[ClassAccuracy]) -> str:
    """Worst first; those without images last, where all can be shown."""
    scored = [(row.accuracy, row) for row in classes if row.accuracy is not None]
    rows = [
        [_text(row.name), f"{row.images:,}", _percent(accuracy), _bar(accuracy)]
        for accuracy, row in sorted(scored, key=lambda pair: pair[0])
    ]
    if len(classes) <= MOST_CLASSES:
        rows += [[_text(row.name), "0", "", ""] for row in classes if row.accuracy is None]
    elif len(rows) > MOST_CLASSES:
        between = len(rows) - WORST_SHOWN - BEST_SHOWN
        gap = [f"… {between:,} more classes …", "", "", ""]
        rows = [*rows[:WORST_SHOWN], gap, *rows[-BEST_SHOWN:]]
    return _table("Accuracy of every class, worst first", ("class", "images", "accuracy", ""), rows)


def _options(options: Sequence[Fact]) -> str:
    if not options:
        return ""
    return (
        f"<details>\n<summary>Every option of the run</summary>\n{_fact_table(options)}\n</details>"
    )


def _fact_table(facts: Iterable[Fact]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>\n'
        for name, value in facts
    )
    return f'<table class="facts">\n{rows}</table>'


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A section with a table; cells are HTML."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<section>\n<h2>{title}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n</section>"
    )


def _bar(fraction: float) -> str:
    return f'<span class="bar"><span style="width: {100 * fraction:.1f}%"></span></span>'


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _data_address(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _text(text: str) -> str:
    """Text of any kind as HTML; of a file name that is no text, what there is of it."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))
