"""Exceptions for what a user can fix; the message of each is one clear line.

The command line prints the message alone; any other exception is a defect of this package and
keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

MOST_NAMED = 5
"""Largest number of things of one kind that a message names; it counts the others."""
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class BoTNetError(ValueError):
    """Something the caller can fix: the message says what it is, what was expected, and how."""

    def __init__(self, message: str) -> None:
        """Write the message in one line, whatever the names in it hold."""
        super().__init__(one_line(message))


class ConfigError(BoTNetError):
    """A configuration, an option or an input size that is not valid."""


class DataError(BoTNetError):
    """A data set or an image that cannot be used."""


class OwnFigureError(DataError):
    """A figure that this package drew, where an image is expected; it is left out of a folder."""


class CheckpointError(BoTNetError):
    """A checkpoint or pretrained directory that is missing, damaged or for another model."""


class TrainingError(BoTNetError):
    """A training run that cannot continue."""


class ExportError(BoTNetError):
    """A model that cannot be exported, or an exported file that does not compute the same."""


@contextmanager
def reraise(
    caught: type[Exception] | tuple[type[Exception], ...],
    kind: type[BoTNetError],
    failure: str,
    *,
    remedy: str = "",
) -> Iterator[None]:
    """Raise other libraries' exceptions as ours: ``failure: their reason; remedy``.

    Our own exceptions pass through unchanged: they already say what to do.

    Args:
        caught: what to catch, as in an ``except`` clause.
        kind: what to raise.
        failure: what could not be done, and with what: "a.parquet cannot be read".
        remedy: what the user can do about it.
    """
    try:
        yield
    except BoTNetError:
        raise
    except caught as error:
        message = f"{failure}: {reason(error)}"
        raise kind(f"{message}; {remedy}" if remedy else message) from error


def require_extra(extra: str, modules: Iterable[str], user: str, kind: type[BoTNetError]) -> None:
    """Check that the libraries of one of the package's extras are installed.

    Args:
        extra: the extra's name.
        modules: the libraries, as they are imported.
        user: what needs them.
        kind: what to raise, with the command that installs them.
    """
    if missing := [module for module in modules if find_spec(module) is None]:
        raise kind(
            f"{user} needs {' and '.join(missing)}; install it with "
            f"pip install 'bottleneck-transformer-flax[{extra}]'"
        )


def reason(error: BaseException) -> str:
    """An exception's message in one line, without the file name that an OSError adds."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(text: str) -> str:
    """The text with its control characters escaped: a file's or a class's name may hold any."""
    return _BREAKS.sub(lambda found: repr(found[0])[1:-1], text)


def first_of(items: Sequence[str]) -> str:
    """Write the first of these in one line, and count the others."""
    listed, others = ", ".join(items[:MOST_NAMED]), len(items) - MOST_NAMED
    return f"{listed} and {others:,} more" if others > 0 else listed


def quoted(names: Iterable[str]) -> str:
    """Write the first of these names, sorted and in quotes, and count the others."""
    return first_of([repr(name) for name in sorted(names)])


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Write the message for a name that is not among the known ones, suggesting the nearest."""
    known = list(known)
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    suggestion = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"unknown {kind} {name!r}; {suggestion}Expected one of {', '.join(known)}"
