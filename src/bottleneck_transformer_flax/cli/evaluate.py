"""``botnet evaluate``: score a trained model on a data set."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from bottleneck_transformer_flax.checkpoints.locations import EMBEDDED
from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.figures.paths import check_png_path
from bottleneck_transformer_flax.training.recipes import default_config
from bottleneck_transformer_flax.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from bottleneck_transformer_flax.data.sources.base import ImageSource

Split = Literal["test", "train", "all"]


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a trained model: top-1, top-5, loss, accuracy and count of every class."""

    checkpoint: str | None = None
    """A pretrained directory, a run, a repository of the Hugging Face hub, or botnet_tiny; by
    default the newest finished run, and where there is none the botnet_tiny in the package."""
    data: str | None = None
    """What to score on, as for `botnet train`; by default what the model was trained with."""
    split: Split | None = None
    """Which images: the held-out ones, those for training, or, for a folder of classes, all. By
    default all of a folder of classes that the model was not trained with, else the test ones."""
    image_size: tuple[int, int] | None = None
    """Height and width to run the model at; by default the size it was trained at."""
    batch_size: int = 64
    """Images computed together; the figures don't depend on it."""
    num_workers: int | None = None
    """Processes that read images; by default one a core, at most one for every thousand files."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, count and list them, instead of stopping."""
    confusion: Path | None = None
    """Write a picture of the confusion matrix to this .png file."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str]) -> int:
    """The command."""
    parsed = options.parse(EvaluateOptions, "evaluate", arguments)
    if parsed.confusion is not None:
        check_png_path(parsed.confusion)

    from bottleneck_transformer_flax.checkpoints.pretrained import load_pretrained
    from bottleneck_transformer_flax.cli.console import counting_progress
    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.data.sources.base import relabel
    from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
    from bottleneck_transformer_flax.figures.confusion import plot_confusion_matrix

    checkpoint, trained = options.choose_checkpoint(parsed.checkpoint)
    model, variables, preprocessing, classes = load_pretrained(
        checkpoint, image_size=parsed.image_size
    )
    source, description = _source(parsed, checkpoint, trained)
    source = relabel(source, classes)
    bad_images = BadImages(skip=parsed.skip_bad_images)
    evaluator = Evaluator(
        model,
        preprocessing,
        batch_size=parsed.batch_size,
        num_workers=parsed.num_workers,
    )
    with counting_progress(Console(stderr=True, emoji=False)) as progress:
        task = progress.add_task("evaluating", total=len(source))
        predictions = evaluator(
            variables,
            source,
            bad_images=bad_images,
            on_batch=lambda done: progress.update(task, completed=done),
        )
    assert predictions is not None  # nothing asked it to stop
    if report := bad_images.report():
        print(report, file=sys.stderr)
    result = predictions.to_json(classes)
    if parsed.confusion is not None:
        plot_confusion_matrix(predictions.confusion, classes, parsed.confusion)
    if parsed.json:
        print(json.dumps({"checkpoint": checkpoint, "data": description} | result))
    else:
        _print_table(checkpoint, description, result)
    return 0


def _source(
    parsed: EvaluateOptions, checkpoint: str, trained: RunDirectory | None
) -> "tuple[ImageSource, str]":
    """The images to score on, and what they are."""
    from bottleneck_transformer_flax.data.datasets import (
        comes_in_parts,
        load_folder_all,
        load_splits,
    )

    if trained is None and parsed.data is None and checkpoint not in EMBEDDED:
        raise ConfigError(
            f"{checkpoint} is not inside a run, so it is not known what it was trained with; name "
            "images with --data"
        )
    config = default_config("embedded") if trained is None else trained.read_config()
    data = parsed.data or config.data
    folder = Path(data)
    plain_folder = not comes_in_parts(data)
    split = parsed.split
    if split is None:
        foreign = trained is None or folder.resolve() != Path(config.data).resolve()
        split = "all" if plain_folder and foreign else "test"
    if split == "all":
        if not plain_folder:
            raise ConfigError(f"split is 'all', but {data} comes in parts; choose test or train")
        source = load_folder_all(folder)
        return source, f"{len(source)} images: all of {data}"
    splits = load_splits(
        data,
        validation_fraction=config.input.validation_fraction,
        split_seed=config.input.split_seed,
    )
    held_out = splits.validation if splits.test is None else splits.test
    chosen = held_out if split == "test" else splits.train
    if chosen is None:
        raise ConfigError(f"no images of {data} are held out; choose --split train")
    return chosen, f"{len(chosen)} images: the {split} part of {data}"


def _print_table(checkpoint: str, description: str, result: dict[str, Any]) -> None:
    console = Console(highlight=False, emoji=False)
    print(f"model  {checkpoint}")
    print(f"data   {description}")
    print(
        f"top-1 {100 * result['top1']:.2f} %   top-5 {100 * result['top5']:.2f} %   "
        f"loss {_number(result['loss'])}   images {result['count']}"
    )
    table = Table("class", box=None, pad_edge=False)
    table.add_column("accuracy", justify="right")
    table.add_column("images", justify="right")
    for row in result["per_class"]:
        accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %"
        table.add_row(row["class"], accuracy, str(row["count"]))
    console.print(table, markup=False)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6f}"
