"""Names in any script: a font that has the letters, or the class's number; never a box."""

import numpy as np
import pytest
from matplotlib import font_manager

from bottleneck_transformer_flax.figures import fonts
from bottleneck_transformer_flax.figures.confusion import LEGEND, draw_confusion_matrix
from bottleneck_transformer_flax.figures.contact_sheet import draw_contact_sheet
from bottleneck_transformer_flax.figures.curves import draw_training_curves
from bottleneck_transformer_flax.figures.fonts import find_fonts, legible, numbered
from bottleneck_transformer_flax.figures.reliability import draw_reliability_diagram
from bottleneck_transformer_flax.figures.style import png_bytes

# In STIX, which comes with matplotlib, and not in DejaVu Sans.
SCRIPT = "\N{MATHEMATICAL SCRIPT CAPITAL A}"
# Assigned, but in no font that anyone has.
UNKNOWN = "\N{SIGNWRITING HAND-FIST INDEX}"
NAMES = ["cat", f"{SCRIPT}nt", f"{UNKNOWN} fist", "кот", "two\nlines \x1b[1m", ""]
LABELS = ["cat", f"{SCRIPT}nt", "#2", "кот", r"two\nlines \x1b[1m", ""]


def test_a_font_is_found_for_what_the_default_font_lacks():
    assert find_fonts("cat кот قطة") == (["sans-serif"], set())
    families, missing = find_fonts(f"cat{SCRIPT}")
    assert (families[0], len(families), missing) == ("sans-serif", 2, set())
    assert find_fonts(f"a{UNKNOWN} b{UNKNOWN}") == (["sans-serif"], {UNKNOWN})


def test_a_name_that_no_font_has_is_its_number():
    assert legible(NAMES) == LABELS
    assert numbered(NAMES) == [("#2", f"{UNKNOWN} fist")]
    assert legible(()) == numbered(()) == []


def test_fonts_installed_since_matplotlib_listed_them_are_found(monkeypatch):
    listed = font_manager.fontManager.ttflist
    without = [font for font in listed if not fonts._drawn_by(font.fname, {SCRIPT})]
    installed = [font.fname for font in listed if font.name == "STIXGeneral"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", without)
    for files, found in (
        ([], (["sans-serif"], {SCRIPT})),
        (installed, (["sans-serif", "STIXGeneral"], set())),
    ):
        monkeypatch.setattr(fonts, "findSystemFonts", lambda files=files: [*files, "removed.ttf"])
        assert find_fonts(SCRIPT) == found


@pytest.mark.parametrize("unknown", [True, False])
def test_pictures_have_letters_or_numbers_and_a_legend_and_no_warning(unknown, assert_readable):
    names = NAMES if unknown else NAMES[:2]
    figure = draw_confusion_matrix(np.eye(len(names), dtype=int), names)
    texts = assert_readable(figure)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == LABELS[: len(names)]
    assert any(LEGEND in text for text in texts) == unknown
    png_bytes(figure)
    images = np.zeros((len(names), 1, 8, 8, 3), np.uint8)
    sheet = draw_contact_sheet(names, images[:, 0], images, title=f"{UNKNOWN}{SCRIPT}")
    assert f"?{SCRIPT}" in assert_readable(sheet)
    assert ("? fist" in [text.get_text() for text in sheet.axes[0].texts]) == unknown
    png_bytes(sheet)


def test_titles_name_folders_in_any_script(assert_readable):
    split, titled = f"test ({UNKNOWN}{SCRIPT}\n/)", rf"test (?{SCRIPT}\n/)"
    row = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "learning_rate": 0.1}
    scores = {"validation_loss": 1.0, "validation_accuracy": 0.5, "validation_origin": split}
    for figure in (
        draw_confusion_matrix(np.eye(2, dtype=int), ["a", "b"], split=split),
        draw_reliability_diagram(np.ones(15, int), np.ones(15), ece=0.0, split=split),
        draw_training_curves([row | scores]),
    ):
        assert any(titled in text for text in assert_readable(figure))
        png_bytes(figure)
