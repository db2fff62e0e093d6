"""The values of a record that holds records, by their paths: ``optimization.learning_rate``."""

from collections.abc import Iterator
from typing import Any


def flattened(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every path with its value, in the record's order."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The path and the new value of all that differs between two records of the same fields."""
    old = dict(flattened(before))
    return ((path, value) for path, value in flattened(after) if value != old[path])
