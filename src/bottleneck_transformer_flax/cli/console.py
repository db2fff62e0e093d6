"""Lines of text and progress bars on a console."""

import os
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bottleneck_transformer_flax.errors import one_line


class LastingConsole(Console):
    """A console that goes on in standard error when nobody reads standard output any more.

    rich would end the program, and with it a training run that took hours.
    """

    def on_broken_pipe(self) -> None:
        """Called when a line could not be written; the next ones go elsewhere."""
        if self.stderr:
            self.quiet = True
            return
        self.stderr = True
        # What is still in Python's buffer could not be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self.print("note: nobody reads standard output any more; the rest goes to standard error")


def print_notes(notes: Iterable[str]) -> None:
    """Print each note to standard error."""
    for note in notes:
        print(f"note: {one_line(note)}", file=sys.stderr)


def say(console: Console, *lines: str) -> None:
    """Print each line as it is, without markup, colours or wrapping; a name may break none."""
    for line in lines:
        console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)


def top5_text(scores: dict[str, Any], separator: str) -> str:
    """The top-5 accuracy followed by a separator; empty where there are five classes or fewer."""
    if len(scores["per_class"]) <= 5:
        return ""
    return f"top-5 {100 * scores['top5']:.2f} %{separator}"


class RateColumn(ProgressColumn):
    """Images per second over the last few seconds."""

    def render(self, task: Task) -> Text:
        """The rate of a task that counts images."""
        return Text("" if task.speed is None else f"{task.speed:,.0f} images/s")


def spinner(text: str) -> AbstractContextManager[object]:
    """What is under way, on standard error; nothing where that is not a terminal."""
    console = Console(stderr=True, emoji=False)
    return console.status(Text(one_line(text))) if console.is_terminal else nullcontext()


def counting_progress(console: Console) -> Progress:
    """A progress bar for work counted in images; nothing where the console is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
