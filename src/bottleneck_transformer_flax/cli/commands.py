"""The commands, and choosing one by its name; no parser of options, so that help is quick."""

import re
import sys
from collections.abc import Mapping, Sequence

from bottleneck_transformer_flax.errors import ConfigError, unknown_name

COMMANDS = {
    "train": "train a model on images; without options, on a small data set that is included",
    "evaluate": "score a trained model on a data set",
    "report": "write a page about a run",
    "predict": "classify images",
    "explain": "draw what a model attends to in an image",
    "features": "write the pooled features of images, for search and clustering",
    "data": "pack a data set into a few large files, or draw it as training sees it",
    "variants": "list the models, with their size, cost and published weights",
    "import": "convert another project's checkpoint to a pretrained directory",
    "export": "write a model as a file that runs elsewhere: ONNX, a web page, StableHLO, timm's",
    "share": "upload a model to the Hugging Face hub",
}


def choose_command(
    program: str, summary: str, commands: Mapping[str, str], arguments: Sequence[str]
) -> tuple[str, Sequence[str]]:
    """Split arguments into the name of a command and the command's own arguments.

    With ``--help`` or nothing instead of a name, print the help and exit.

    Args:
        program: what a user types before the command.
        summary: first line of the help.
        commands: what each command does, by its name.
        arguments: what a user types after the program.

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


def as_typed(message: str, arguments: Sequence[str]) -> str:
    """Name the options that were typed as they were, where a message names their fields.

    Args:
        message: a message about fields, such as "batch_size is 0".
        arguments: what a user typed after the program.
    """
    typed = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    # The longest first: "epochs" is also the end of "warmup_epochs".
    for option in sorted(typed, key=len, reverse=True):
        field = re.escape(option[2:].replace("-", "_"))
        # A word alone may be no field: "the data is", but "data is".
        pattern = rf"\b{field}\b" if "_" in field else rf"(?<!the ){field}(?= (?:is|=) )"
        message = re.sub(rf"(?<![\w-])(?:\w+\.)?{pattern}", option, message)
    return message
