"""Fonts that together draw a text in any script, from those that the system has."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.font_manager import (
    FontProperties,
    findfont,
    findSystemFonts,
    fontManager,
    get_font,
)

from bottleneck_transformer_flax.errors import one_line

# These have a box for every character, or draw nothing.
_WITHOUT_LETTERS = re.compile(r"last ?resort|color emoji|blank", re.IGNORECASE)
_REGULAR_WEIGHTS = range(400, 501)


class Fonts(NamedTuple):
    """What a text is drawn with.

    Attributes:
        families: font families for matplotlib, which takes each character from the first that has
            it.
        missing: characters that no font of the system has.
    """

    families: list[str]
    missing: set[str]

    def legible(self, text: str) -> str:
        """The text in one line, with "?" for each character that no font has."""
        return one_line(text).translate(dict.fromkeys(map(ord, self.missing), "?"))


def find_fonts(text: str) -> Fonts:
    """The default font, and others for the characters that it lacks."""
    default = FontProperties().get_family()
    families, missing = list(default), {letter for letter in text if not letter.isspace()}
    for family in default:
        missing -= _drawn_by(findfont(FontProperties(family=[family])), missing)
    if missing:
        for family, file in _other_fonts():
            if found := _drawn_by(file, missing):
                families.append(family)
                missing -= found
    return Fonts(families, missing)


def legible(names: Sequence[str]) -> list[str]:
    """Class names as a picture can show them: in one line, or as "#3" where no font has one."""
    lines = list(map(one_line, names))
    missing = find_fonts("".join(lines)).missing
    return [
        f"#{number}" if missing.intersection(line) else line for number, line in enumerate(lines)
    ]


def numbered(names: Sequence[str]) -> list[tuple[str, str]]:
    """Number and name of each class that ``legible`` gives by its number."""
    shown = zip(legible(names), map(one_line, names), strict=True)
    return [(number, name) for number, name in shown if number != name]


def _other_fonts() -> Iterator[tuple[str, str]]:
    """Family and file of each regular font, those without serifs first."""
    # Matplotlib lists the fonts once, and keeps the list when fonts are installed later.
    for file in set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}:
        with contextlib.suppress(Exception):  # of a font that FreeType cannot read or scale
            fontManager.addfont(file)
    yield from sorted(
        {
            (font.name, font.fname)
            for font in fontManager.ttflist
            if font.style == "normal" and font.weight in _REGULAR_WEIGHTS
            if not _WITHOUT_LETTERS.search(font.name)
        },
        key=lambda font: ("sans" not in font[0].lower(), font),
    )


def _drawn_by(file: str, characters: set[str]) -> set[str]:
    """The characters that a font has; none where its file is gone or damaged."""
    try:
        font = get_font(file)
    except (OSError, RuntimeError):
        return set()
    return {character for character in characters if font.get_char_index(ord(character))}
