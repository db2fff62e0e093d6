"""What the commands share: choosing a command, parsing its options, and finding its model."""

import contextlib
import io
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from bottleneck_transformer_flax.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from bottleneck_transformer_flax.training.run_directory import RunDirectory

RUNS = Path("runs")
Options = TypeVar("Options")

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


def choose_command(
    program: str, summary: str, commands: Mapping[str, str], arguments: Sequence[str]
) -> tuple[str, Sequence[str]]:
    """Split arguments into the name of a command and the command's own arguments.

    Prints help and exits where ``--help`` or nothing is given instead.

    Args:
        program: what a user types before the command.
        summary: the first line of the help.
        commands: the names, each with what it does.
        arguments: what follows the program's name.

    Raises:
        ConfigError: for an unknown name.
    """
    if not arguments or arguments[0] in ("--help", "-h"):
        width = max(map(len, commands))
        table = "\n".join(f"  {name:<{width}}  {what}" for name, what in commands.items())
        print(
            f"usage: {program} COMMAND ...\n\n{summary}\n\n{table}\n\n"
            f"`{program} COMMAND --help` describes the options of a command.",
            file=sys.stdout if arguments else sys.stderr,
        )
        sys.exit(0 if arguments else 2)
    if arguments[0] not in commands:
        raise ConfigError(unknown_name("command", arguments[0], commands))
    return arguments[0], arguments[1:]


def parse(
    kind: type[Options],
    command: str,
    arguments: Sequence[str],
    *,
    default: Options | None = None,
) -> Options:
    """Parse a command's options; with ``--help`` among them, print the help and exit.

    Args:
        kind: the record of the options.
        command: the command's name, as a user types it after ``botnet``.
        arguments: what follows the command's name.
        default: the values of options that are not given.

    Raises:
        ConfigError: for options that are not valid.
    """
    message = io.StringIO()
    try:
        with _registry, contextlib.redirect_stderr(message):
            parsed: Options = tyro.cli(
                kind,
                prog=f"botnet {command}",
                args=list(arguments),
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
            )
    except SystemExit as exit_:
        if exit_.code == 0:
            raise
        raise ConfigError(_in_one_line(message.getvalue())) from exit_
    return parsed


def _in_one_line(box: str) -> str:
    """Write tyro's message, a box of text with a heading and rules, as one sentence."""
    rows = [row.strip(" │╭╮╰╯|+") for row in box.splitlines()[1:]]
    parts = " ".join("\n" if set(row) <= set("─-") else row for row in rows).split("\n")
    sentence = "; ".join(" ".join(part.split()) for part in parts if part.strip())
    # The name of tyro's own field for a nested record says nothing to a user.
    return re.sub(r"^Error parsing config[\w.]*: ", "", sentence)


def command_line(*words: object) -> str:
    """Write the shell command for another command of this program, which may be off the PATH."""
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

    Without a name, it is the newest finished run's, or else the package's own.
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
