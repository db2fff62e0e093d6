"""What the commands share: options, who is measured, and where results go."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax

from benchmarks.figure import plot
from benchmarks.implementations import Implementation
from benchmarks.results import (
    SKIPPED,
    Row,
    conditions,
    fail,
    print_conditions,
    print_json,
    table_text,
    write_csv,
)
from bottleneck_transformer_flax.errors import ConfigError


def make_parser(command: str, description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that every measurement has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {command}", description=description, allow_abbrev=False
    )
    parser.add_argument(
        "--rounds", type=at_least_one, default=rounds, help="turns of each (default: %(default)s)"
    )
    add_output(parser)
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add ``--out`` and ``--json``."""
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
        help=f"who is measured, the others relative to the first: {', '.join(implementations)} "
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
    """Who can be measured, and the rows of those who cannot.

    Raises:
        ConfigError: when nobody can.
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

    def __init__(self, out: Path, name: str, *, as_json: bool, picture: bool = True) -> None:
        """Make the folder, before anything is measured.

        Raises:
            ConfigError: when it cannot be made.
        """
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {out} cannot be made: {error.strerror}") from error
        self._out, self._name, self._as_json, self._picture = out, name, as_json, picture
        self._conditions = conditions()
        self.rows: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Show rows, and write all that there are."""
        self.rows += rows
        if self._as_json:
            print_json(rows, self._conditions)
        else:
            print(table_text(rows) + "\n", flush=True)
        write_csv(self._out / f"{self._name}.csv", self.rows, self._conditions)
        if self._picture:
            plot(self.rows, self._out / f"{self._name}.png")

    def finish(self) -> int:
        """Say where the rows are and what they were measured on; 1 where something failed."""
        if not self._as_json:
            files = f"{self._name}.csv" + (" and .png" if self._picture else "")
            print(f"written: {self._out / files}")
            print_conditions(self._conditions)
        failed = [row for row in self.rows if row.failed]
        for row in failed:
            fail(f"{row.case}: {row.status}")
        return int(bool(failed))


def use_cpu() -> None:
    """Compute on the CPU, as the peers do, in this process and all that it starts."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
