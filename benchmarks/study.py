"""What a study with a table and a picture writes and prints, and how its command ends."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.conditions import conditions
from benchmarks.report import csv_text
from bottleneck_transformer_flax.errors import BoTNetError
from bottleneck_transformer_flax.figures.style import save_png

REPOSITORY = Path(__file__).parent.parent

Rows = Sequence[Any]


def study_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options that every study has."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"where {name}.csv and {name}.png go; by default benchmarks/results and docs/images "
        "of this repository",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    return parser


def run_study(
    name: str,
    options: argparse.Namespace,
    *,
    measure: Callable[[], Rows],
    draw: Callable[[Rows], Figure],
    table: Callable[[Rows], str],
) -> int:
    """Measure, write and print; 0 when it is done, 1 when it failed, with one line that says why.

    Args:
        name: of the study and its files; its script's has underscores.
        options: of ``study_parser``.
        measure: the rows, dataclasses, before anything is written.
        draw: their picture.
        table: them in words.
    """
    results = (options.out or REPOSITORY / "benchmarks" / "results") / f"{name}.csv"
    picture = (options.out or REPOSITORY / "docs" / "images") / f"{name}.png"
    try:
        # Before the work, so that a folder that cannot be made is told at once.
        for path in (results, picture):
            path.parent.mkdir(parents=True, exist_ok=True)
        rows, measured = measure(), conditions()
        results.write_text(csv_text(rows, measured), encoding="utf-8")
        save_png(draw(rows), picture)
    except BoTNetError as error:
        return _failed(name, str(error))
    except OSError as error:
        return _failed(name, f"{error.filename}: {error.strerror}")
    print(f"written: {results}, {picture}", file=sys.stderr)
    if options.json:
        print(json.dumps({"conditions": measured, "rows": [asdict(row) for row in rows]}))
    else:
        print(table(rows))
        print("\n" + "   ".join(f"{name} {value}" for name, value in measured.items()))
    return 0


def _failed(name: str, why: str) -> int:
    print(f"{name.replace('-', '_')}.py: error: {why}", file=sys.stderr)
    return 1
