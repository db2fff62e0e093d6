"""Rows of gpu.py as tables in plain text."""

from collections.abc import Callable, Sequence

from benchmarks.gpu_measure import Row

_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("case", lambda row: row.case),
    ("quantity", lambda row: row.quantity),
    ("implementation", lambda row: row.implementation),
    ("dtype", lambda row: row.dtype),
    ("batch", lambda row: _number(row.batch_size, "d")),
    ("ms", lambda row: _number(row.seconds, ".3f", 1e3)),
    ("a second", lambda row: _number(row.per_second, ",.0f")),
    ("time, relative", lambda row: _number(row.relative_time, ".2f")),
    ("memory MB", lambda row: _number(row.memory_bytes, ",.0f", 1e-6)),
    ("compile s", lambda row: _number(row.compile_seconds, ".1f")),
    ("difference", lambda row: _number(row.largest_difference, ".1e")),
    ("in float32", lambda row: _number(row.float32_difference, ".1e")),
    ("status", lambda row: row.status),
)
_WORDS = ("case", "quantity", "implementation", "dtype", "status")


def table_text(rows: Sequence[Row]) -> str:
    """A line for each row, with the columns that any of them has something in."""
    columns = []
    for heading, cell in _COLUMNS:
        cells = [cell(row) for row in rows]
        if any(cells):
            width = max(map(len, (heading, *cells)))
            align = str.ljust if heading in _WORDS else str.rjust
            columns.append([align(text, width) for text in (heading, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _number(value: float | None, form: str, unit: float | None = None) -> str:
    if value is None:
        return ""
    return format(value if unit is None else value * unit, form)
