"""Options and results that the commands share."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from benchmarks.implementations import Implementation
from benchmarks.results import COLUMNS, SKIPPED, Format, Row, conditions, csv_text, table_text
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that every command has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {command}",
        description=(description or "").partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmark"),
        metavar="FOLDER",
        help="where the CSV and the picture go (default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print every row as a JSON object, not tables"
    )
    return parser


def add_rounds(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add ``--rounds`` with its default."""
    parser.add_argument(
        "--rounds", type=at_least_one, default=rounds, help="turns of each (default: %(default)s)"
    )


def add_implementations(
    parser: argparse.ArgumentParser, implementations: Mapping[str, Implementation]
) -> None:
    """Add ``--implementations``."""
    parser.add_argument(
        "--implementations",
        nargs="+",
        choices=list(implementations),
        default=list(implementations),
        metavar="NAME",
        help=f"what is measured, relative to the first: {', '.join(implementations)} "
        "(default: all that are installed)",
    )


def at_least_one(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def installed(
    names: Sequence[str], implementations: Mapping[str, Implementation], workload: str, row: Row
) -> tuple[list[str], list[Row]]:
    """Names of the implementations that can be measured, and rows for those that cannot.

    Raises:
        ConfigError: when none can be measured.
    """
    able, skipped = [], []
    for name in dict.fromkeys(names):
        missing = implementations[name].missing()
        if missing:
            why = f"{SKIPPED}: needs {' and '.join(missing)} (pip install {' '.join(missing)})"
            skipped.append(replace(row, implementation=name, status=why))
        elif workload in implementations[name].workloads:
            able.append(name)
    if not able:
        raise ConfigError(f"none of {', '.join(names)} is installed and does {workload}")
    return able, skipped


class Results:
    """The rows of a command: shown and written as they come, so that an interruption loses none."""

    def __init__(
        self,
        options: argparse.Namespace,
        name: str,
        *,
        draw: "Callable[[Sequence[Any]], Figure] | None" = None,
        columns: Mapping[str, tuple[str, Format]] = COLUMNS,
    ) -> None:
        """Make the folder, before anything is measured.

        Args:
            options: options of ``make_parser``.
            name: name of the files.
            draw: draws the picture, if there is one.
            columns: headings and formats of the table.

        Raises:
            ConfigError: when the folder cannot be made.
        """
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {options.out} cannot be made: {error.strerror}") from error
        self._path = options.out / name
        self._as_json, self._draw, self._columns = options.json, draw, columns
        self._conditions = conditions()
        self.rows: list[Any] = []

    def add(self, rows: Sequence[Any]) -> None:
        """Show rows, and write all that there are."""
        self.rows += rows
        if self._as_json:
            for row in rows:
                print(json.dumps(asdict(row) | self._conditions), flush=True)
        else:
            print(table_text(rows, self._columns) + "\n", flush=True)
        write_text(self._path.with_suffix(".csv"), csv_text(self.rows, self._conditions))
        if self._draw is not None:
            from bottleneck_transformer_flax.figures.style import save_png

            save_png(self._draw(self.rows), self._path.with_suffix(".png"))

    def finish(self) -> int:
        """Print where the results are and what they were measured on; 1 if something failed."""
        if not self._as_json:
            print(f"written: {self._path}.csv" + " and .png" * bool(self._draw))
            measured_on = ", ".join(f"{name} {value}" for name, value in self._conditions.items())
            print(f"measured on {measured_on}")
        failed = [row for row in self.rows if isinstance(row, Row) and row.failed]
        for row in failed:
            print(f"benchmarks: error: {row.benchmark}: {row.status}", file=sys.stderr)
        return int(bool(failed))


def use_cpu() -> None:
    """Compute on the CPU, as the peers do, in this process and all that it starts."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
