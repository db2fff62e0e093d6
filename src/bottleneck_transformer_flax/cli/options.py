"""What the commands share: parsing their options, and finding the model to use."""

import contextlib
import io
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import arg

from bottleneck_transformer_flax import own_output
from bottleneck_transformer_flax.errors import ConfigError

if TYPE_CHECKING:
    from bottleneck_transformer_flax.training.run_directory import RunDirectory

RUNS = Path(own_output.RUNS)
Options = TypeVar("Options")

# Options that several commands have.
Checkpoint = Annotated[
    str | None,
    arg(
        help="A pretrained directory, a run, a repository on the Hugging Face hub, or botnet_tiny; "
        "by default the newest finished run, or else the botnet_tiny in the package."
    ),
]
ExportedCheckpoint = Annotated[
    str | None,
    arg(
        help="A pretrained directory, a run, a repository on the Hugging Face hub, botnet_tiny, or "
        "an .onnx file that botnet export wrote; by default the newest finished run, or else the "
        "botnet_tiny in the package."
    ),
]
Engine = Annotated[
    Literal["jax", "onnxruntime", "openvino"] | None,
    arg(help="What computes the model; by default onnxruntime for an .onnx file, else jax."),
]
InferenceSize = Annotated[
    tuple[int, int] | None,
    arg(help="Height and width at which to run the model; by default those it was trained at."),
]
BatchSize = Annotated[int, arg(help="Images computed together; the results don't depend on it.")]
NumWorkers = Annotated[
    int | None,
    arg(help="Processes that read images, at most one per core; by default one per 1000 files."),
]
MaxPixels = Annotated[
    int | None,
    arg(help="Refuse images with more pixels than this; by default 178,956,970."),
]
SkipBadImages = Annotated[bool, arg(help="Leave out unreadable images, and list them at the end.")]

_registry = tyro.constructors.ConstructorRegistry()


@_registry.primitive_rule
def _image_size(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Read an optional size as exactly two numbers, not as any number of them."""
    if info.type != tuple[int, int] | None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=2,
        metavar="HEIGHT WIDTH",
        instance_from_str=lambda words: (int(words[0]), int(words[1])),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None"] if value is None else list(map(str, value)),
    )


@_registry.primitive_rule
def _duration(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Read an optional time such as 15m, 1h30m, 1.5h or 90s."""
    if info.type != timedelta | None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="TIME",
        instance_from_str=lambda words: parse_duration(words[0]),
        is_instance=lambda value: value is None or isinstance(value, timedelta),
        str_from_instance=lambda value: [str(value)],
    )


def parse_duration(text: str) -> timedelta:
    """The time that a text such as "15m", "1h30m", "1.5h" or "90s" stands for.

    Raises:
        ValueError: for any other text, and for no time at all.
    """
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(f"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text)
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    duration = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if not duration:
        raise ValueError(f"{text!r} is no time; expected such as 15m, 1h30m or 90s")
    return duration


def parse(
    kind: type[Options],
    command: str,
    arguments: Sequence[str],
    *,
    default: Options | None = None,
) -> Options:
    """Parse a command's options, with those that are not given from ``default``.

    With ``--help`` among the arguments, print the help and exit.

    Raises:
        ConfigError: for options that are not valid.
    """
    message = io.StringIO()
    if {"--help", "-h"} & set(arguments):
        # tyro would not wrap it.
        print(_wrapped(kind.__doc__ or ""), end="\n\n")
    try:
        with _registry, contextlib.redirect_stderr(message):
            parsed: Options = tyro.cli(
                kind,
                prog=f"botnet {command}",
                description="",
                args=list(arguments),
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalMetavarFromFieldName),
            )
    except SystemExit as exit_:
        if exit_.code == 0:
            raise
        raise ConfigError(_in_one_line(message.getvalue())) from exit_
    return parsed


def _wrapped(text: str) -> str:
    """Paragraphs no wider than the terminal."""
    width = shutil.get_terminal_size().columns
    return "\n\n".join(
        textwrap.fill(" ".join(paragraph.split()), width) for paragraph in text.split("\n\n")
    )


def _in_one_line(box: str) -> str:
    """tyro's message, a box of text with a heading and rules, as one sentence."""
    rows = [row.strip(" │╭╮╰╯|+") for row in box.splitlines()[1:]]
    parts = " ".join("\n" if set(row) <= set("─-") else row for row in rows).split("\n")
    sentence = "; ".join(" ".join(part.split()).rstrip(".") for part in parts if part.strip())
    # The name of a record of options says nothing to a user.
    sentence = re.sub(r"^Error parsing [\w.]+: ", "", sentence)
    return re.sub(r"For full helptext, (run|see) ", "see ", sentence)


def option_name(path: str) -> str:
    """How the option of a field is typed: "--num-workers" for "input.num_workers"."""
    return "--" + path.rpartition(".")[2].replace("_", "-")


def command_line(*words: object) -> str:
    """A command of this program, which may not be on the PATH, quoted for the shell."""
    script = Path(sys.argv[0])
    package = __name__.partition(".")[0]
    if script.match(f"{package}/__main__.py"):
        program = [sys.executable, "-m", package]
    elif script.name == "botnet" and shutil.which("botnet") != str(script.absolute()):
        program = [str(script)]
    else:
        program = ["botnet"]
    return shlex.join([*program, *map(str, words)])


def choose_checkpoint(checkpoint: str | None) -> "tuple[str, RunDirectory | None]":
    """Find the model to use, and the run that it belongs to, if any.

    Without a name, take the newest finished run's, or else the embedded one. A folder in a run,
    such as ``best/``, belongs to the run.
    """
    from bottleneck_transformer_flax.checkpoints.pretrained_files import EMBEDDED
    from bottleneck_transformer_flax.training.run_directory import RunDirectory, newest_run

    if checkpoint is None:
        newest = newest_run(RUNS, having="pretrained")
        return (EMBEDDED[0], None) if newest is None else (str(newest.path), newest)
    path = Path(checkpoint)
    for candidate in (path, path.resolve().parent):
        if path.is_dir() and (candidate / "run.json").is_file():
            return checkpoint, RunDirectory(candidate)
    return checkpoint, None
