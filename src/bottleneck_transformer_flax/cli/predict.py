"""``botnet predict IMAGE…``: classify images."""

import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import print_notes
from bottleneck_transformer_flax.data.sources.walking import files_below, left_out
from bottleneck_transformer_flax.decoding import allow_pixels, decode_image
from bottleneck_transformer_flax.errors import ConfigError, DataError, OwnFigureError, one_line
from bottleneck_transformer_flax.image_formats import (
    count_undecoded,
    describe_undecoded,
    has_image_suffix,
)


@dataclass(frozen=True)
class PredictOptions:
    """Classify images: the likeliest classes and their probabilities.

    A file that cannot be read is reported and the others are still classified; the exit code is
    then 1.
    """

    images: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint="(required)"),
    ]
    """Image files, folders to search to any depth, or - for an image on standard input."""
    checkpoint: options.Checkpoint = None
    top_k: int = 5
    """Number of classes to give for each image."""
    image_size: options.InferenceSize = None
    max_pixels: options.MaxPixels = None
    batch_size: options.BatchSize = 32
    json: bool = False
    """Print a line of JSON per image, with "image" and either "predictions" or "error"."""


class Item(NamedTuple):
    """An image to classify: its name, and either its pixels or why they cannot be read."""

    name: str
    image: Image.Image | None
    error: DataError | None


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(PredictOptions, "predict", arguments)
    if not parsed.images:
        raise ConfigError("no image was named; expected files, folders, or - for standard input")

    # These import jax, which takes a second; help and bad usage are answered without it.
    from bottleneck_transformer_flax.conversion.loading import load_pretrained
    from bottleneck_transformer_flax.inference.predictor import Predictor

    allow_pixels(parsed.max_pixels)
    checkpoint, _ = options.choose_checkpoint(parsed.checkpoint)
    pretrained = load_pretrained(checkpoint, image_size=parsed.image_size)
    predictor = Predictor(pretrained, batch_size=parsed.batch_size, top_k=parsed.top_k)
    if not parsed.json:
        print(f"model  {checkpoint}")
    failed = False
    items = _items(parsed.images)
    while group := list(itertools.islice(items, predictor.batch_size)):
        rankings = iter(predictor([item.image for item in group if item.image is not None]))
        for item in group:
            if item.image is None:
                failed = True
                _report_error(item, as_json=parsed.json)
            else:
                _report(item.name, next(rankings), as_json=parsed.json)
        # Whoever reads from a pipe gets each batch as soon as it is done.
        print(end="", flush=True)
    return 1 if failed else 0


def _items(names: Iterable[str]) -> Iterator[Item]:
    for name in names:
        if name == "-":
            given = io.BytesIO(b"" if sys.stdin is None else sys.stdin.buffer.read())
            given.name = "standard input"
            yield _decode(given.name, given)
        elif Path(name).is_dir():
            own_output: list[str] = []
            try:
                files = list(files_below(Path(name), own_output))
            except DataError as error:
                yield Item(name, None, error)
                continue
            if own_output:
                print_notes([f"{name}: {left_out(own_output)}"])
            found = sorted(filter(has_image_suffix, files))
            if undecoded := count_undecoded(files):
                yield Item(name, None, DataError(f"{name}: has {describe_undecoded(undecoded)}"))
            elif not found:
                yield Item(name, None, DataError(f"{name}: the folder holds no images"))
            for path in (str(Path(name) / file) for file in found):
                item = _decode(path, path)
                if isinstance(item.error, OwnFigureError):
                    print_notes([f"left out {item.error}"])
                else:
                    yield item
        else:
            yield _decode(name, name)


def _decode(name: str, file: str | io.BytesIO) -> Item:
    try:
        return Item(name, decode_image(file), None)
    except DataError as error:
        return Item(name, None, error)


def _report(name: str, ranking: list[tuple[str, float]], *, as_json: bool) -> None:
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


def _report_error(item: Item, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": item.name, "error": str(item.error)}))
    print(f"botnet: error: {item.error}", file=sys.stderr)
