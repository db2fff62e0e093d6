"""Colours and resolution that all figures share, and how a figure is written as a PNG.

Figures are built on ``matplotlib.figure.Figure`` and drawn by Agg, never through pyplot, which
would choose a backend and share its state with the calling program.
"""

import io
from errno import ENOTDIR
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.figures.fonts import find_fonts
from bottleneck_transformer_flax.files import write_bytes
from bottleneck_transformer_flax.own_output import SOFTWARE

DOTS_PER_INCH = 150
# Blue and vermilion of Okabe and Ito's palette, which people with any colour vision can tell apart.
TRAIN_COLOR = "#0072B2"
VALIDATION_COLOR = "#D55E00"
INK_COLOR = "0.2"
FRAME_COLOR = "0.7"
TITLE_FONT_SIZE = 11


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """Make an empty white figure with an Agg canvas."""
    figure = Figure((width_inches, height_inches), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes) -> None:
    """Lighten frame and ticks, so that the data is the darkest thing on the page."""
    axes.set_facecolor("white")
    for spine in axes.spines.values():
        spine.set_color(FRAME_COLOR)
    axes.tick_params(colors=INK_COLOR, color=FRAME_COLOR, labelcolor=INK_COLOR)


def set_title(axes: Axes, title: str, split: str) -> Text:
    """Write a title, and below it what the figure is about, whose folder may have any name."""
    fonts = find_fonts(split)
    return axes.set_title(
        title + (split and f"\n{fonts.legible(split)}"),
        fontsize=TITLE_FONT_SIZE,
        fontfamily=fonts.families,
        color=INK_COLOR,
        loc="left",
        pad=10,
        # A dollar sign in a folder's name starts no formula.
        parse_math=False,
    )


def style_chart(axes: Axes, title: str) -> None:
    """Style axes as a chart: open above and to the right, with a title at the left."""
    style_axes(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc="left", color=INK_COLOR)


def png_bytes(figure: Figure) -> bytes:
    """Encode the figure as a PNG, which names this package as the software that wrote it."""
    png = io.BytesIO()
    # The canvas draws the figure as it is; savefig would let a matplotlibrc crop or rescale it.
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": SOFTWARE})  # type: ignore[no-untyped-call]
    return png.getvalue()


def check_png_path(path: Path) -> None:
    """Check that a figure can be written to a path, before any work is done for it.

    Raises:
        ConfigError: when ``path`` does not end in ``.png``.
        NotADirectoryError: when it is in no folder.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path} is no name of a figure; expected one that ends in .png")
    if not path.parent.is_dir():
        reason = f"its folder {path.parent} does not exist; create it or choose another path"
        raise NotADirectoryError(ENOTDIR, reason, str(path))


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG, whole or not at all."""
    write_bytes(path, png_bytes(figure))
