"""Lines of text on a console, as they are."""

from rich.console import Console
from rich.markup import escape


def say(console: Console, *lines: str) -> None:
    """Print each line without markup, colours or breaks."""
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
