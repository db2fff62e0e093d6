"""Images that a user names: files, folders searched to any depth, and standard input."""

import io
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol, TypeVar, runtime_checkable

import tyro

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import print_notes
from bottleneck_transformer_flax.data.sources.walking import files_below, left_out
from bottleneck_transformer_flax.decoding import ImageInput, allow_pixels
from bottleneck_transformer_flax.errors import ConfigError, DataError, OwnFigureError
from bottleneck_transformer_flax.image_formats import (
    count_undecoded,
    describe_undecoded,
    has_image_suffix,
)

if TYPE_CHECKING:
    from bottleneck_transformer_flax.inference.predictor import Predictor


@runtime_checkable
class HasError(Protocol):
    """What was computed of an image, or why it could not be."""

    @property
    def error(self) -> DataError | None:
        """Why the image cannot be read."""
        ...


@dataclass(frozen=True, kw_only=True)
class PredictorOptions:
    """The options of commands that compute something of every image that is named."""

    images: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="IMAGE ...", help_behavior_hint="(required)"),
    ]
    """Image files, folders to search to any depth, or - for an image on standard input."""
    checkpoint: options.ExportedCheckpoint = None
    engine: options.Engine = None
    image_size: options.InferenceSize = None
    max_pixels: options.MaxPixels = None
    batch_size: options.BatchSize = 32

    def load(self, *, top_k: int = 1) -> "tuple[str, Predictor]":
        """The checkpoint to use, and a predictor with its model."""
        if not self.images:
            raise ConfigError(
                "no image was named; expected files, folders, or - for standard input"
            )
        # This imports jax, which takes a second; help and bad usage are answered without it.
        from bottleneck_transformer_flax.inference.predictor import Predictor

        allow_pixels(self.max_pixels)
        checkpoint, _ = options.choose_checkpoint(self.checkpoint)
        return checkpoint, Predictor(
            checkpoint,
            image_size=self.image_size,
            batch_size=self.batch_size,
            top_k=top_k,
            engine=self.engine,
        )


Result = TypeVar("Result", bound=HasError)
ReportError = Callable[[str, DataError], None]


class Named(NamedTuple):
    """An image and its name, or why there is none; whether it was found in a folder."""

    name: str
    image: ImageInput | DataError
    in_folder: bool = False


def results_of_images(
    names: Iterable[str],
    stream: Callable[[Iterator[ImageInput | DataError]], Iterator[Result]],
    report_error: ReportError,
) -> Iterator[tuple[str, Result]]:
    """What a stream makes of every image, with the image's name.

    Figures that botnet drew are left out of folders, with a note.

    Args:
        names: files, folders, or - for standard input.
        stream: from images to one result each, in their order.
        report_error: called, in the place of a result, with every image that cannot be read, and
            with every folder that has no images, or some that cannot be decoded.
    """
    under_way: deque[Named] = deque()

    def images() -> Iterator[ImageInput | DataError]:
        for named in _find_images(names):
            under_way.append(named)
            yield named.image

    for result in stream(images()):
        name, _, in_folder = under_way.popleft()
        if result.error is None:
            yield name, result
        elif in_folder and isinstance(result.error, OwnFigureError):
            print_notes([f"left out {result.error}"])
        else:
            report_error(name, result.error)


def _find_images(names: Iterable[str]) -> Iterator[Named]:
    for name in names:
        if name == "-":
            given = io.BytesIO(b"" if sys.stdin is None else sys.stdin.buffer.read())
            given.name = "standard input"
            yield Named(given.name, given)
        elif not Path(name).is_dir():
            yield Named(name, name)
        else:
            yield from _images_below(name)


def _images_below(folder: str) -> Iterator[Named]:
    own_output: list[str] = []
    try:
        files = list(files_below(Path(folder), own_output))
    except DataError as error:
        yield Named(folder, error)
        return
    if own_output:
        print_notes([f"{folder}: {left_out(own_output)}"])
    found = sorted(filter(has_image_suffix, files))
    if undecoded := count_undecoded(files):
        yield Named(folder, DataError(f"{folder}: has {describe_undecoded(undecoded)}"))
    elif not found:
        yield Named(folder, DataError(f"{folder}: the folder holds no images"))
    for path in (str(Path(folder) / file) for file in found):
        yield Named(path, path, in_folder=True)
