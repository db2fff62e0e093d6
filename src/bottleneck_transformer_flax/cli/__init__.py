"""The command line: ``botnet COMMAND …``. A command's module is imported when it runs.

Exit codes: 0 done, 1 the work failed or was interrupted before it was done, 2 bad usage.
"""

import argparse
import codecs
import keyword
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper

from bottleneck_transformer_flax.cli.compiled_programs import keep_compiled_programs
from bottleneck_transformer_flax.cli.interrupts import interrupts_end_it
from bottleneck_transformer_flax.cli.startup import collect_garbage_seldom, keep_freed_memory
from bottleneck_transformer_flax.errors import BoTNetError, ConfigError

COMMANDS = {
    "train": "train a model on images, with no argument on a small data set that is included",
    "evaluate": "score a trained model on a data set",
    "report": "write one page about a run",
    "predict": "classify images",
    "data": "pack a data set into few large files, or look at how it is augmented",
    "variants": "list the models by name, with their size, cost and published weights",
    "import": "make a pretrained directory of another project's checkpoint",
    "export": "write a model as another project's checkpoint",
    "share": "upload a model to the Hugging Face hub",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the console script ``botnet``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        _parser().print_help(sys.stderr)
        return 2
    if arguments[0] == "benchmark":
        return _fail("benchmarks run from a checkout: python -m benchmarks --help", 2)
    parsed = _parser().parse_args(arguments)
    codecs.register_error("botnet", _encode_somehow)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="botnet")
    keep_freed_memory()
    collect_garbage_seldom()
    keep_compiled_programs()
    _say_what_is_logged()
    try:
        with interrupts_end_it():
            # A module cannot be named after a word of Python's own, such as "import".
            suffix = "_" if keyword.iskeyword(parsed.command) else ""
            module = import_module(f"{__name__}.{parsed.command}{suffix}")
            code: int = module.run(parsed.arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
    except ConfigError as error:
        return _fail(str(error), 2)
    except BoTNetError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        # The reader of a pipe has gone; Python's own flush at exit must not complain either.
        sys.stdout = None
        return 1
    except OSError as error:
        return _fail(_describe(error), 1)
    except MemoryError as error:
        return _fail(f"not enough memory: {error or 'none is left'}; ask for less at once", 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="botnet",
        description="Bottleneck Transformers (BoTNet) for image classification.",
        epilog="`botnet COMMAND --help` describes a command's options.",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {version('bottleneck-transformer-flax')}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        # The command parses its own options, --help among them.
        command = commands.add_parser(name, help=summary, add_help=False, prefix_chars="\0")
        command.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _say_what_is_logged() -> None:
    """What the package logs goes to standard error, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    logger = logging.getLogger(__name__.partition(".")[0])
    logger.handlers = [handler]
    # A library that sets up the root's logging would say everything once more.
    logger.propagate = False
    # What orbax warns of, such as the remains of a process that was killed, it sees to itself, and
    # what it logs as an error, with every thread's traceback, it raises too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def _encode_somehow(error: UnicodeError) -> tuple[str | bytes, int]:
    """File names that are no text go out as they came in; what the terminal lacks becomes "?"."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    as_it_came = all("\udc80" <= c <= "\udcff" for c in error.object[error.start : error.end])
    return codecs.lookup_error("surrogateescape" if as_it_came else "replace")(error)


def _fail(message: str, code: int) -> int:
    print(f"botnet: error: {message}", file=sys.stderr)
    return code


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename is not None else reason
