"""What the commands share: parsing their options, and finding the model they speak of."""

import contextlib
import io
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from bottleneck_transformer_flax.checkpoints.locations import EMBEDDED
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.training.run_directory import RunDirectory, newest_run

RUNS = Path("runs")
Options = TypeVar("Options")

_registry = tyro.constructors.ConstructorRegistry()


@_registry.primitive_rule
def _image_size(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """An optional size is always two numbers, so that what follows them is not taken for more."""
    if info.type != tuple[int, int] | None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=2,
        metavar="HEIGHT WIDTH",
        instance_from_str=lambda words: (int(words[0]), int(words[1])),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None"] if value is None else list(map(str, value)),
    )


def parse(
    kind: type[Options],
    command: str,
    arguments: Sequence[str],
    *,
    default: Options | None = None,
) -> Options:
    """Read a command's options; with --help among them, print it and exit with 0.

    Raises:
        ConfigError: for options that cannot be read.
    """
    said = io.StringIO()
    try:
        with _registry, contextlib.redirect_stderr(said):
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
        raise ConfigError(_in_one_line(said.getvalue())) from exit_
    return parsed


def _in_one_line(box: str) -> str:
    """tyro's message, which is a box of text with a heading and rules, as one sentence."""
    rows = [row.strip(" │╭╮╰╯|+") for row in box.splitlines()[1:]]
    parts = " ".join("\n" if set(row) <= set("─-") else row for row in rows).split("\n")
    sentence = "; ".join(" ".join(part.split()) for part in parts if part.strip())
    # What a record says of itself names the option; where tyro keeps the record says nothing.
    return re.sub(r"^Error parsing config[\w.]*: ", "", sentence)


def command_line(*words: object) -> str:
    """What to type to run another command of this program, which may not be on the path."""
    started = Path(sys.argv[0])
    package = __name__.partition(".")[0]
    if started.match(f"{package}/__main__.py"):
        program = [sys.executable, "-m", package]
    elif started.name == "botnet" and shutil.which("botnet") != str(started.absolute()):
        program = [str(started)]
    else:
        program = ["botnet"]
    return shlex.join([*program, *map(str, words)])


def choose_checkpoint(checkpoint: str | None) -> tuple[str, RunDirectory | None]:
    """The model to use, and the run it comes from where that is known.

    Without a name it is that of the newest finished run, and otherwise the one in the package.
    """
    if checkpoint is None:
        newest = newest_run(RUNS, having="pretrained")
        return (EMBEDDED[0], None) if newest is None else (str(newest.path), newest)
    path = Path(checkpoint)
    for candidate in (path, path.resolve().parent):
        if path.is_dir() and (candidate / "run.json").is_file():
            return checkpoint, RunDirectory(candidate)
    return checkpoint, None
