"""Rows as a table for people, and as CSV for whoever compares machines."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from benchmarks.rounds import Row


def table(rows: Sequence[Row]) -> Table:
    """One case's rows; times are relative to the first row's."""
    first = rows[0]
    unit = "grids" if first.workload.startswith("attention") else "images"
    result = empty_table(
        f"{first.workload} of {first.variant}, {first.height} × {first.width}, "
        f"batch {first.batch_size}",
        f"{unit}/s",
        "p50 ms",
        "p95 ms",
        "time, relative",
        "of peak",
        "memory MB",
        "temporaries",
        "compile s",
        "difference",
    )
    for row in rows:
        result.add_row(
            row.implementation,
            three_digits(row.images_per_second),
            f"{1e3 * row.p50_seconds:.1f}",
            f"{1e3 * row.p95_seconds:.1f}",
            f"{row.relative_time:.2f}",
            "" if row.fraction_of_peak is None else f"{100 * row.fraction_of_peak:.0f} %",
            _megabytes(row.peak_memory_bytes),
            _megabytes(row.temporaries_bytes),
            f"{row.compile_seconds:.1f}",
            f"{row.largest_difference:.0e}",
        )
    return result


def empty_table(title: str, *headings: str) -> Table:
    """A table of implementations by their names, and columns of numbers."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False)
    result.add_column("implementation")
    for heading in headings:
        result.add_column(heading, justify="right")
    return result


def three_digits(number: float) -> str:
    """A rate as people read it: 0.312, 12.3, 1,350."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def csv_text(rows: Sequence[Any], circumstances: Mapping[str, str]) -> str:
    """A line for every row, a dataclass, with the conditions in its last columns."""
    records = [dataclasses.asdict(row) | dict(circumstances) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f}"
