"""``botnet evaluate``: score a trained model on a data set."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from bottleneck_transformer_flax.checkpoints.pretrained_files import EMBEDDED
from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import top5_text
from bottleneck_transformer_flax.errors import ConfigError, DataError, one_line
from bottleneck_transformer_flax.training.recipes import default_config
from bottleneck_transformer_flax.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.data.datasets import Splits
    from bottleneck_transformer_flax.data.sources.base import ImageSource
    from bottleneck_transformer_flax.evaluation.predictions import Predictions
    from bottleneck_transformer_flax.training.run_images import RunImages

Split = Literal["train", "validation", "test", "all"]


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a trained model: accuracy, calibration and loss, and accuracy by class."""

    checkpoint: options.Checkpoint = None
    data: str | None = None
    """Images to score, as for `botnet train`; by default those of the model's run, wherever they
    are now."""
    split: Split | None = None
    """Split to score, or all of an unsplit folder; by default test, else validation, else all."""
    image_size: options.InferenceSize = None
    batch_size: options.BatchSize = 64
    num_workers: options.NumWorkers = None
    skip_bad_images: options.SkipBadImages = False
    max_pixels: options.MaxPixels = None
    confusion: Path | None = None
    """Write a picture of the confusion matrix to this .png file."""
    reliability: Path | None = None
    """Write a picture of the accuracy by confidence (a reliability diagram) to this .png file."""
    json: bool = False
    """Print the scores as one line of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(EvaluateOptions, "evaluate", arguments)
    for picture in filter(None, (parsed.confusion, parsed.reliability)):
        from bottleneck_transformer_flax.figures.style import check_png_path

        check_png_path(picture)

    from bottleneck_transformer_flax.conversion.loading import load_pretrained
    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.data.datasets import comes_in_parts, named_split
    from bottleneck_transformer_flax.data.sources.base import relabel
    from bottleneck_transformer_flax.decoding import allow_pixels

    checkpoint, trained = options.choose_checkpoint(parsed.checkpoint)
    pretrained = load_pretrained(checkpoint, image_size=parsed.image_size)
    images = _images_of(checkpoint, trained)
    source, split, data, own = _source(parsed, images)
    remark, note = _what_is_known(images, source, split, data, own)
    if note:
        print(f"note: {note}", file=sys.stderr)
    bad_images = BadImages(skip=parsed.skip_bad_images)
    allow_pixels(parsed.max_pixels)
    predictions = score(
        pretrained,
        relabel(source, pretrained.classes),
        batch_size=parsed.batch_size,
        num_workers=parsed.num_workers,
        bad_images=bad_images,
    )
    if report := bad_images.report():
        print(report, file=sys.stderr)
    result = predictions.to_json(pretrained.classes)
    _draw(parsed, predictions, pretrained.classes, named_split(split, source.origin))
    # That of an unsplit folder would only repeat its name.
    of = f" ({source.origin})" if source.origin and comes_in_parts(data) else ""
    part = f"all of {data}" if split == "all" else f"the {split} split of {data}{of}"
    description = f"{len(source):,} images: {part}{remark}"
    if parsed.json:
        described = {"checkpoint": checkpoint, "data": description, "split": split}
        print(json.dumps(described | {"origin": source.origin} | result))
    else:
        _print_table(checkpoint, description, result)
    return 0


def _draw(
    parsed: EvaluateOptions, predictions: "Predictions", classes: tuple[str, ...], split: str
) -> None:
    """Write the pictures that were asked for."""
    from bottleneck_transformer_flax.figures.style import save_png

    if parsed.confusion is not None:
        from bottleneck_transformer_flax.figures.confusion import draw_confusion_matrix

        matrix = draw_confusion_matrix(predictions.confusion, classes, split=split)
        save_png(matrix, parsed.confusion)
    if parsed.reliability is not None:
        from bottleneck_transformer_flax.figures.reliability import draw_reliability_diagram

        bins = predictions.reliability
        diagram = draw_reliability_diagram(bins.counts, bins.accuracies, ece=bins.ece, split=split)
        save_png(diagram, parsed.reliability)


def score(
    pretrained: "Pretrained",
    source: "ImageSource",
    *,
    batch_size: int,
    num_workers: int | None,
    bad_images: "BadImages",
) -> "Predictions":
    """Score all images of a source, with a progress bar."""
    from bottleneck_transformer_flax.cli.console import counting_progress
    from bottleneck_transformer_flax.evaluation.evaluator import Evaluator

    evaluator = Evaluator(
        pretrained.model, pretrained.preprocessing, batch_size=batch_size, num_workers=num_workers
    )
    with counting_progress(Console(stderr=True, emoji=False)) as progress:
        task = progress.add_task("evaluating", total=len(source))
        predictions = evaluator(
            pretrained.variables,
            source,
            bad_images=bad_images,
            on_batch=lambda done: progress.update(task, completed=done),
        )
    assert predictions is not None  # Nothing asked it to stop.
    return predictions


def _images_of(checkpoint: str, trained: RunDirectory | None) -> "RunImages":
    """The images that a model was trained on; without a place where they are unknown."""
    from bottleneck_transformer_flax.data.datasets import digest_splits, load_splits
    from bottleneck_transformer_flax.training.run_images import RunImages

    if trained is not None:
        return RunImages.of_run(trained)
    config = default_config("embedded")
    if checkpoint in EMBEDDED:
        return RunImages(checkpoint, config, digest_splits(load_splits("embedded")), ("embedded",))
    return RunImages(checkpoint, config, {}, ())


def _source(
    parsed: EvaluateOptions, images: "RunImages"
) -> "tuple[ImageSource, Split, str, Splits | None]":
    """The images to score, their split, their data set, and its splits if it is the model's own."""
    from bottleneck_transformer_flax.cli.console import print_notes
    from bottleneck_transformer_flax.data.datasets import comes_in_parts, load_folder_all
    from bottleneck_transformer_flax.training.run_images import load_images

    data, splits = (parsed.data, None) if parsed.data is not None else _own_images(images)
    in_parts = comes_in_parts(data)
    try:
        splits = splits or load_images(images.config, data)
    except DataError:
        # Images that cannot be split, such as one of each class, can be scored as a whole.
        if in_parts or parsed.split not in (None, "all"):
            raise
        whole = load_folder_all(data)
        print_notes(whole.notes)
        return whole, "all", data, None
    print_notes(splits.notes)
    own = splits if images.are(splits) else None
    held_out: Split = "validation" if splits.test is None else "test"
    wanted = parsed.split or (held_out if own or in_parts else "all")
    if wanted == "all" and not in_parts:
        return load_folder_all(data), "all", data, own
    source: ImageSource | None = splits._asdict().get(wanted)
    if source is None:
        raise ConfigError(_missing_split(wanted, splits, data, in_parts))
    return source, wanted, data, own


def _missing_split(wanted: Split, splits: "Splits", data: str, in_parts: bool) -> str:
    """Why there is no such split, and which there are."""
    if splits.validation is None and not in_parts:
        why = f"no images of the folder {data!r} are held out, because the run held none out"
    else:
        why = f"the data set {data!r} has no {wanted} split"
    there = [name for name in ("train", "validation", "test") if splits._asdict()[name] is not None]
    choices = " or ".join(f"--split {name}" for name in [*there, *["all"] * (not in_parts)])
    return f"{why}; choose {choices}, or name other images with --data"


def _own_images(images: "RunImages") -> "tuple[str, Splits]":
    """Where the images of the model's run are, and the images."""
    if not images.places:
        raise ConfigError(
            f"{images.owner} is not inside a run, so the images it was trained with are unknown; "
            "name images with --data"
        )
    try:
        return images.find()
    except DataError as error:
        raise DataError(f"{error}; name their folder with --data") from error


def _what_is_known(
    images: "RunImages", source: "ImageSource", split: Split, data: str, own: "Splits | None"
) -> tuple[str, str]:
    """Whether the model was trained on images: as a remark, or as a note where it cannot be told.

    Either may be empty.
    """
    owner = images.owner
    if not images.places:
        return "", f"whether {owner} was trained on any of these images is not known"
    if not images.digests:
        return "", (
            f"{owner} has no record of the images that it was trained on, because an earlier "
            f"version wrote it; that those in {data} are the same is only assumed"
        )
    if own is not None and split == "all":
        return "", f"{owner} was trained on {len(own.train):,} of these {len(source):,} images"
    if own is not None:
        return "", ""
    if len(splits := images.splits_of(source)) == 1:
        what = {"train": "trained", "validation": "validated", "test": "tested"}[splits[0]]
        return f", which {owner} was {what} on", ""
    try:
        count = images.count_trained_on(source)
    except DataError as error:
        return "", f"whether {owner} was trained on any of these images cannot be told: {error}"
    if not count:
        return "", ""
    return "", (
        f"{count} of these images have the class and name of an image that {owner} was trained on; "
        "if they are the same images, the scores say little about others"
    )


def _print_table(checkpoint: str, description: str, result: dict[str, Any]) -> None:
    console = Console(highlight=False, emoji=False)
    print(one_line(f"model  {checkpoint}"))
    print(one_line(f"data   {description}"))
    loss = "not finite" if result["loss"] is None else f"{result['loss']:.6f}"
    error = "not finite" if result["ece"] is None else f"{100 * result['ece']:.2f} %"
    print(
        f"top-1 {100 * result['top1']:.2f} %   {top5_text(result, '   ')}"
        f"loss {loss}   images {result['count']}"
    )
    print(
        f"balanced accuracy {100 * result['balanced_accuracy']:.2f} %   "
        f"macro-F1 {result['macro_f1']:.4f}   calibration error (ECE) {error}"
    )
    table = Table("class", box=None, pad_edge=False)
    table.add_column("accuracy", justify="right")
    table.add_column("images", justify="right")
    for row in result["per_class"]:
        accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %"
        table.add_row(one_line(row["class"]), accuracy, str(row["count"]))
    console.print(table, markup=False)
