"""``botnet predict IMAGE…``: classify images."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.image_inputs import PredictorOptions, results_of_images
from bottleneck_transformer_flax.errors import DataError, one_line


@dataclass(frozen=True, kw_only=True)
class PredictOptions(PredictorOptions):
    """Classify images: the likeliest classes and their probabilities.

    A file that cannot be read is reported and the others are still classified; the exit code is
    then 1.
    """

    top_k: int = 5
    """Number of classes to give for each image."""
    json: bool = False
    """Print a line of JSON per image, with "image" and either "predictions" or "error"."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(PredictOptions, "predict", arguments)
    checkpoint, predictor = parsed.load(top_k=parsed.top_k)
    if not parsed.json:
        print(f"model  {checkpoint}")
    failed = False

    def report_error(name: str, error: DataError) -> None:
        nonlocal failed
        failed = True
        _report_error(name, error, as_json=parsed.json)

    for name, prediction in results_of_images(parsed.images, predictor.stream, report_error):
        # Whoever reads from a pipe gets each prediction as soon as it is made.
        _report(name, prediction.ranking, as_json=parsed.json)
        print(end="", flush=True)
    return 1 if failed else 0


def _report(name: str, ranking: Sequence[tuple[str, float]], *, as_json: bool) -> None:
    if as_json:
        predictions = [{"class": label, "probability": value} for label, value in ranking]
        print(json.dumps({"image": name, "predictions": predictions}))
        return
    print(one_line(name))
    table = Table(box=None, show_header=False, pad_edge=True)
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("bar", no_wrap=True)
    for label, value in ranking:
        table.add_row(Text(one_line(label)), f"{100 * value:.2f} %", "█" * round(20 * value))
    Console(highlight=False, emoji=False).print(table)


def _report_error(name: str, error: DataError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": name, "error": str(error)}))
    print(f"botnet: error: {error}", file=sys.stderr)
