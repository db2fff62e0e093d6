"""``botnet data``: pack a data set into a few large files, or draw it as training sees it."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro
from jaxtyping import Float, UInt8
from rich.console import Console

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.commands import choose_command
from bottleneck_transformer_flax.cli.setup_text import describe_augmentation
from bottleneck_transformer_flax.errors import ConfigError, DataError, one_line
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.recipes import RECIPES_BY_DATA, default_config

if TYPE_CHECKING:
    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.data.packing import Packed
    from bottleneck_transformer_flax.data.sources.base import ImageSource

ACTIONS = {
    "pack": "pack a data set into a few large files that are fast to read in any order",
    "show": "draw images as evaluation sees them and as training sees them",
}
MOST_ROWS, MOST_VERSIONS = 100, 20


@dataclass(frozen=True)
class PackOptions:
    """Pack the images of a data set, as they are, into a few large files.

    The command `botnet train --data OUT` then trains and validates on the same images as with the
    data set itself. Every image is decoded once, and every written file read back. After an
    interruption, repeat the command: it keeps the files that are finished.
    """

    data: tyro.conf.Positional[str]
    """A data set for `botnet train`, or a folder of Parquet files from the Hugging Face hub."""
    out: tyro.conf.Positional[Path]
    """The folder to write."""
    shards: int | None = None
    """Number of files for the largest split; by default one per 4,096 images."""
    num_workers: int | None = None
    """Processes that pack; by default one per core, at most one per file."""
    skip_bad_images: options.SkipBadImages = False
    max_pixels: options.MaxPixels = None
    image_column: str | None = None
    """Column of image files in Parquet; by default image or img."""
    label_column: str | None = None
    """Column of numbers or class names in Parquet; by default label, labels or fine_label."""
    json: bool = False
    """Print a summary as one line of JSON."""


@dataclass(frozen=True)
class ShowOptions:
    """Draw some training images, as evaluation sees them and augmented as training might.

    The default augmentation is that of `botnet train --data DATA`, which its --help shows.
    """

    data: tyro.conf.Positional[str] = "embedded"
    """The data set, as for `botnet train`."""
    out: Path = Path("sheet.png")
    """The .png file to write."""
    count: int = 8
    """Number of images, drawn at random from the training split."""
    versions: int = 6
    """Number of augmented versions of each image."""
    seed: int = 0
    """Seed for the choice of images and for their augmentation."""
    image_size: tuple[int, int] | None = None
    """Height and width of the model's input; by default those that `botnet train` chooses."""
    max_pixels: options.MaxPixels = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    skip_bad_images: options.SkipBadImages = False
    json: bool = False
    """Print a summary as one line of JSON."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, most in (
            ("count", self.count, MOST_ROWS),
            ("versions", self.versions, MOST_VERSIONS),
        ):
            if not 1 <= value <= most:
                raise ConfigError(f"{name} is {value}; expected 1 to {most}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; expected an integer in [0, 2**32)")


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    action, rest = choose_command(
        "botnet data", "Pack a data set, or draw its images.", ACTIONS, arguments
    )
    return _pack(rest) if action == "pack" else _show(rest)


def _pack(arguments: Sequence[str]) -> int:
    parsed = options.parse(PackOptions, "data pack", arguments)
    _check_apart(parsed.data, parsed.out)

    from bottleneck_transformer_flax.cli.console import counting_progress, print_notes
    from bottleneck_transformer_flax.data.datasets import load_parts
    from bottleneck_transformer_flax.data.packing import pack
    from bottleneck_transformer_flax.data.sources.parquet import Columns
    from bottleneck_transformer_flax.decoding import allow_pixels

    allow_pixels(parsed.max_pixels)
    columns = Columns(image=parsed.image_column, label=parsed.label_column)
    parts = load_parts(parsed.data, in_order=True, columns=columns)
    print_notes(chain.from_iterable(part.notes for part in parts.values()))
    with counting_progress(Console(stderr=True, emoji=False)) as progress:
        task = progress.add_task("packing", total=sum(map(len, parts.values())))
        packed = pack(
            parts,
            parsed.out,
            shards=parsed.shards,
            num_workers=parsed.num_workers,
            skip_bad_images=parsed.skip_bad_images,
            on_image=lambda: progress.advance(task),
        )
    if parsed.json:
        described = {"data": parsed.data, "out": str(parsed.out)} | dataclasses.asdict(packed)
        print(json.dumps(described))
    else:
        _print_packed(parsed, packed)
    return 0


def _check_apart(data: str, out: Path) -> None:
    """Check that the folder to write is outside the data set, which would else contain itself."""
    folder, written = Path(data).resolve(), out.resolve()
    if Path(data).is_dir() and (folder == written or folder in written.parents):
        raise ConfigError(f"{out} is in {data}, which is being packed; name a folder elsewhere")


def _print_packed(parsed: PackOptions, packed: "Packed") -> None:
    images = " and ".join(
        f"{count:,} images" if part == "all" else f"{count:,} {part} images"
        for part, count in packed.images.items()
    )
    print(one_line(f"packed   {parsed.data}: {images}"))
    if packed.left_out:
        print(f"left out {len(packed.left_out):,} that cannot be read:")
        for reason in packed.left_out:
            print(f"  {reason}")
    files = "1 file" if packed.files == 1 else f"{packed.files:,} files"
    print(f"written  {parsed.out}: {files}, {packed.bytes / 1e6:,.1f} MB")
    print(f"next: {options.command_line('train', '--data', parsed.out)}")


def _show(arguments: Sequence[str]) -> int:
    parsed = _parse_show(arguments)
    # These import jax, which takes a second; help and bad usage are answered without it.
    from bottleneck_transformer_flax.cli.console import print_notes
    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.data.datasets import load_splits
    from bottleneck_transformer_flax.decoding import allow_pixels
    from bottleneck_transformer_flax.figures.contact_sheet import draw_contact_sheet
    from bottleneck_transformer_flax.figures.fonts import legible, numbered
    from bottleneck_transformer_flax.figures.style import check_png_path, save_png
    from bottleneck_transformer_flax.training.defaults import choose_defaults, summarize
    from bottleneck_transformer_flax.training.starting_point import starting_point

    check_png_path(parsed.out)
    allow_pixels(parsed.max_pixels)
    splits = load_splits(parsed.data)
    print_notes(splits.notes)
    source, config = splits.train, default_config(parsed.data)
    if parsed.data not in RECIPES_BY_DATA:
        config = choose_defaults(summarize(source)).config
        parsed = _parse_show(arguments, config.augmentation)
    size = parsed.image_size or config.input.image_size
    inputs = dataclasses.replace(config.input, image_size=size)
    _, preprocessing, _ = starting_point(config.replace(input=inputs), source.native_size)
    rng = np.random.default_rng(parsed.seed)
    bad_images = BadImages(skip=parsed.skip_bad_images)
    readable = _readable(source, rng.permutation(len(source)).tolist(), bad_images)
    chosen = sorted(islice(readable, parsed.count))
    if report := bad_images.report():
        print(report, file=sys.stderr)
    if not chosen:
        raise DataError(f"none of the training images of {parsed.data} can be read")
    evaluated, trained = _images(parsed, preprocessing, source, chosen)
    labels = legible(source.class_names)
    names = [labels[source.labels[index]] for index in chosen]
    unnamed = [" ".join(pair) for pair in numbered(source.class_names) if pair[0] in names]
    if unnamed:
        print(f"note: no font has the names of {', '.join(unnamed)}", file=sys.stderr)
    changes = describe_augmentation(parsed.augmentation)
    sheet = draw_contact_sheet(names, evaluated, trained, title=f"{parsed.data}: {changes}")
    save_png(sheet, parsed.out)
    if parsed.json:
        images = [source.describe(index) for index in chosen]
        print(json.dumps({"out": str(parsed.out), "data": parsed.data, "images": images}))
    else:
        print(f"data     {splits.description}")
        print(f"changes  {changes}")
        print(f"written  {parsed.out}")
    return 0


def _parse_show(arguments: Sequence[str], augmentation: Augmentation | None = None) -> ShowOptions:
    """Parse the options twice, because the data decides the defaults of the others."""

    def parse(data: str) -> ShowOptions:
        default = ShowOptions(
            data=data, augmentation=augmentation or default_config(data).augmentation
        )
        return options.parse(ShowOptions, "data show", arguments, default=default)

    return parse(parse(ShowOptions.data).data)


def _readable(source: "ImageSource", indices: list[int], bad_images: "BadImages") -> Iterator[int]:
    """Those of the indices whose images can be read, in the same order."""
    for index in indices:
        try:
            source.read(index)
        except DataError:
            bad_images.add(source, index)
        else:
            yield index


def _images(
    parsed: ShowOptions, preprocessing: Preprocessing, source: "ImageSource", chosen: list[int]
) -> tuple[UInt8[np.ndarray, "rows h w 3"], UInt8[np.ndarray, "rows versions h w 3"]]:
    """The chosen images as evaluation sees them, and as training does, augmented."""
    import jax
    import jax.numpy as jnp

    from bottleneck_transformer_flax.augmentation.batch import augment_batch
    from bottleneck_transformer_flax.augmentation.image import (
        EvaluationTransform,
        TrainingTransform,
    )

    evaluate = EvaluationTransform(preprocessing)
    transform = TrainingTransform(preprocessing, parsed.augmentation)
    evaluated = np.stack([evaluate(source.open(index)) for index in chosen])
    targets, valid = jnp.zeros((len(chosen), 1)), jnp.ones(len(chosen), bool)
    augment = jax.jit(augment_batch, static_argnums=4)
    trained = []
    for version in range(parsed.versions):
        rng = np.random.default_rng([parsed.seed, version])
        pixels = np.stack([transform(source.open(index), rng) for index in chosen])
        images = jnp.asarray(preprocessing.normalize(pixels))
        key = jax.random.fold_in(jax.random.key(parsed.seed), version)
        images, _ = augment(images, targets, valid, key, parsed.augmentation)
        trained.append(_pixels(np.asarray(images), preprocessing))
    return evaluated, np.stack(trained, axis=1)


def _pixels(
    images: Float[np.ndarray, "rows h w 3"], preprocessing: Preprocessing
) -> UInt8[np.ndarray, "rows h w 3"]:
    """Turn model input back into RGB in [0, 255]."""
    values = 255 * (images * np.array(preprocessing.std) + np.array(preprocessing.mean))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
