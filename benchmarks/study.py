"""What the studies share: their options, and what each writes and prints."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import ROOT
from benchmarks.results import (
    conditions,
    print_conditions,
    print_json,
    write_csv,
)
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.figures.style import INK_COLOR, save_png, style_axes


class Study:
    """Where the numbers and the picture of a study go."""

    def __init__(self, name: str, description: str | None) -> None:
        """Start a parser with the options that every study has.

        Args:
            name: name of the command and of the files.
            description: the first line is shown in the help.
        """
        self._name = name
        self.parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks {name}",
            description=(description or "").partition("\n")[0],
            allow_abbrev=False,
        )
        self.parser.add_argument(
            "--out",
            type=Path,
            metavar="FOLDER",
            help=f"where {name}.csv and {name}.png go (default: benchmarks/results, docs/images)",
        )
        self.parser.add_argument(
            "--json", action="store_true", help="print every row as a JSON object, not a table"
        )

    def paths(self, options: argparse.Namespace) -> tuple[Path, Path]:
        """Paths of the CSV and of the picture, in folders that are there, before any work.

        Raises:
            ConfigError: when a folder cannot be made.
        """
        results = (options.out or ROOT / "benchmarks" / "results") / f"{self._name}.csv"
        picture = (options.out or ROOT / "docs" / "images") / f"{self._name}.png"
        for path in (results, picture):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"--out {options.out}: {error.strerror}") from error
        return results, picture

    def finish(
        self,
        options: argparse.Namespace,
        rows: Sequence[Any],
        figure: Figure,
        lines: Sequence[str],
    ) -> int:
        """Write and print what was measured.

        Args:
            options: the command's.
            rows: dataclasses.
            figure: the picture of the rows.
            lines: the rows in words.
        """
        results, picture = self.paths(options)
        measured_on = conditions()
        write_csv(results, rows, measured_on)
        save_png(figure, picture)
        print(f"written: {results}, {picture}", file=sys.stderr)
        if options.json:
            print_json(rows, measured_on)
        else:
            print("\n".join([*lines, ""]))
            print_conditions(measured_on)
        return 0


def finish_panel(axes: Axes, title: str) -> None:
    """A quiet frame, horizontal lines, and a title at the left."""
    style_axes(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc="left", color=INK_COLOR)
