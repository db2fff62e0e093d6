"""The command line: ``botnet COMMAND …``. A command's module is imported when it runs.

Exit codes: 0 done; 1 the work failed or was interrupted, or something that the command line names
is missing or cannot be used; 2 the command line itself is wrong: an option or a value that is
unknown, out of range, or does not fit the others, the data or the model.
"""

import keyword
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from bottleneck_transformer_flax.cli.commands import COMMANDS, as_typed, choose_command
from bottleneck_transformer_flax.cli.startup import (
    accept_any_text,
    end_at_once,
    explain_device_error,
    keep_compiled_programs,
    keep_freed_memory,
    show_log,
)
from bottleneck_transformer_flax.errors import BoTNetError, ConfigError, one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the console script ``botnet``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    before = signal.signal(signal.SIGINT, end_at_once)
    accept_any_text()
    keep_freed_memory()
    keep_compiled_programs()
    show_log()
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except ConfigError as error:
        return _fail(as_typed(str(error), arguments), 2)
    except BoTNetError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        # Whoever read the pipe has gone; Python's own flush at exit must not complain either.
        sys.stdout = None
        return 1
    except OSError as error:
        reason = error.strerror or str(error)
        return _fail(reason if error.filename is None else f"{error.filename}: {reason}", 1)
    except MemoryError as error:
        less = "where the command has a --batch-size, a smaller one needs less"
        return _fail(f"not enough memory: {error or 'none is left'}; {less}", 1)
    except (RuntimeError, AssertionError) as error:
        if (message := explain_device_error(error)) is None:
            raise
        return _fail(message, 1)
    finally:
        signal.signal(signal.SIGINT, before)


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "--version":
        from importlib.metadata import version

        print(f"botnet {version('bottleneck-transformer-flax')}")
        return 0
    if arguments and arguments[0] == "benchmark":
        raise ConfigError(
            "benchmarks are no longer part of the package; run `python -m benchmarks` in a "
            "checkout of its repository"
        )
    command, rest = choose_command(
        "botnet", "Bottleneck Transformers (BoTNet) for image classification.", COMMANDS, arguments
    )
    # A module cannot have the name of a Python keyword, such as "import".
    suffix = "_" if keyword.iskeyword(command) else ""
    code: int = import_module(f"{__name__}.{command}{suffix}").run(rest)
    return code


def _fail(message: str, code: int) -> int:
    print(f"botnet: error: {one_line(message)}", file=sys.stderr)
    return code
