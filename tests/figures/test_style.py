"""How figures reach the disk: whole or not at all, and without pyplot."""

import subprocess
import sys

import matplotlib
import pytest
from PIL import Image

from bottleneck_transformer_flax.decoding import decode_image
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.figures.style import check_png_path, new_figure, save_png


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_png_has_the_figure_s_size_whatever_the_user_s_settings(tmp_path):
    settings = {"savefig.dpi": 20, "savefig.bbox": "tight", "figure.dpi": 30}
    with matplotlib.rc_context(settings):
        save_png(new_figure(2.0, 1.0), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (300, 150))
    assert names_in(tmp_path) == ["figure.png"]


def test_a_figure_is_never_read_as_an_image(tmp_path):
    save_png(new_figure(1.0, 1.0), tmp_path / "sheet.png")
    with pytest.raises(DataError, match=r"sheet.png: is a figure that botnet drew"):
        decode_image(tmp_path / "sheet.png")


def test_a_path_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path):
    for name, kind, told in (
        ("absent/figure.png", NotADirectoryError, "absent does not exist; create it"),
        ("figure.pdf", ConfigError, r"ends in \.png"),
    ):
        with pytest.raises(kind, match=told):
            check_png_path(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.png"):
        save_png(new_figure(1.0, 1.0), tmp_path / "folder.png")
    assert names_in(tmp_path) == ["folder.png"]


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("curves confusion contact_sheet reliability", {"jax", "matplotlib.pyplot"}),
        ("report", {"jax", "matplotlib", "numpy"}),
    ],
)
def test_what_figures_import(modules, heavy):
    lines = [f"import bottleneck_transformer_flax.figures.{name}" for name in modules.split()]
    lines += ["import sys", f"print(*({heavy} & set(sys.modules)))"]
    program = [sys.executable, "-c", "\n".join(lines)]
    ran = subprocess.run(program, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
