"""Checks of a record's fields, and the messages for values that fail them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np

from bottleneck_transformer_flax.errors import ConfigError


class Check(NamedTuple):
    """A condition on the value of a field.

    Attributes:
        holds: whether a value is allowed.
        expected: the allowed values in words.
    """

    holds: Callable[[Any], bool]
    expected: str


def problems(record: Any, **checks: Check) -> list[str]:
    """One sentence for each field of a dataclass whose value is not allowed.

    Args:
        record: the dataclass.
        **checks: checks by field name. Any other field is checked by its type, where that is bool,
            int (at least 1) or a ``Literal``, with or without None.
    """
    wrong = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        check = checks.get(field.name) or _check_by_type(field.type)
        if not check.holds(value):
            wrong.append(f"{field.name} is {value!r}; expected {check.expected}")
    return wrong


def check_fields(record: Any, **checks: Check) -> None:
    """Raise one ConfigError for all fields whose value is not allowed; see ``problems``."""
    if wrong := problems(record, **checks):
        raise ConfigError("; ".join(wrong))


def _check_by_type(annotation: Any) -> Check:
    optional = type(None) in get_args(annotation)
    kind = get_args(annotation)[0] if optional else annotation
    if get_origin(kind) is Literal:
        allowed = get_args(kind) + (None,) * optional
        return Check(allowed.__contains__, f"one of {', '.join(map(str, allowed))}")
    if kind is bool:
        return Check(lambda value: isinstance(value, bool), "True or False")
    if kind is int:
        return Check(
            lambda value: is_count(value) or (optional and value is None),
            "an integer of at least 1" + " or None" * optional,
        )
    return Check(lambda value: True, "any value")


def is_count(value: Any) -> bool:
    """Whether this is an integer of at least 1."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(value >= 1)


def are_four(value: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether this is a tuple of four values that meet a condition, one for each stage."""
    return isinstance(value, tuple) and len(value) == 4 and all(map(holds, value))


def number(expected: str, holds: Callable[[float], bool]) -> Check:
    """The check for a number that meets a condition."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float | np.number) and not isinstance(value, bool)

    return Check(lambda value: is_number(value) and bool(holds(value)), f"a number {expected}")


def integer(expected: str, holds: Callable[[int], bool]) -> Check:
    """The check for an integer that meets a condition."""
    return Check(lambda value: type(value) is int and holds(value), f"an integer {expected}")


def or_none(check: Check) -> Check:
    """The same check, with None allowed too."""
    return Check(lambda value: value is None or check.holds(value), f"{check.expected}, or None")


BELOW_1 = number("in [0, 1)", lambda value: 0 <= value < 1)
UP_TO_1 = number("in (0, 1]", lambda value: 0 < value <= 1)
AT_LEAST_0 = number("of at least 0", lambda value: 0 <= value < math.inf)
NUM_WORKERS = or_none(integer("of at least 0", lambda value: value >= 0))
"""What a number of worker processes may be; with None, it is chosen."""
