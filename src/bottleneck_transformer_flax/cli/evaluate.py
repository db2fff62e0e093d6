"""``botnet evaluate``: score a trained model on a data set."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import top5_text
from bottleneck_transformer_flax.cli.model_images import Split, choose_images, images_of
from bottleneck_transformer_flax.errors import ConfigError, DataError, one_line

if TYPE_CHECKING:
    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.data.datasets import Splits
    from bottleneck_transformer_flax.data.sources.base import ImageSource
    from bottleneck_transformer_flax.evaluation.predictions import Predictions
    from bottleneck_transformer_flax.inference.models import Model
    from bottleneck_transformer_flax.training.run_images import RunImages


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a trained model: accuracy, calibration and loss, and accuracy by class."""

    checkpoint: options.ExportedCheckpoint = None
    engine: options.Engine = None
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
    knn: int | None = None
    """Score the model's features, not its classifier: by the votes of the K nearest neighbours of
    each image among the training images."""
    json: bool = False
    """Print the scores as one line of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(EvaluateOptions, "evaluate", arguments)
    for picture in filter(None, (parsed.confusion, parsed.reliability)):
        from bottleneck_transformer_flax.figures.style import check_png_path

        check_png_path(picture)

    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.data.datasets import comes_in_parts, named_split
    from bottleneck_transformer_flax.data.sources.base import relabel
    from bottleneck_transformer_flax.decoding import allow_pixels
    from bottleneck_transformer_flax.inference.models import load_model

    checkpoint, trained = options.choose_checkpoint(parsed.checkpoint)
    model = load_model(checkpoint, image_size=parsed.image_size, engine=parsed.engine)
    images = images_of(checkpoint, trained)
    source, split, data, own = choose_images(images, parsed.data, parsed.split)
    remark, note = _what_is_known(images, source, split, data, own)
    if note:
        print(f"note: {note}", file=sys.stderr)
    bad_images = BadImages(skip=parsed.skip_bad_images)
    allow_pixels(parsed.max_pixels)
    source = relabel(source, model.classes)
    if parsed.knn is None:
        predictions = score(
            model,
            source,
            batch_size=parsed.batch_size,
            num_workers=parsed.num_workers,
            bad_images=bad_images,
        )
    else:
        remark += f", by their {parsed.knn} nearest neighbours in the training images"
        predictions = _score_by_neighbours(parsed, model, images, source, split, bad_images)
    if report := bad_images.report():
        print(report, file=sys.stderr)
    result = predictions.to_json(model.classes)
    _draw(parsed, predictions, model.classes, named_split(split, source.origin))
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
    model: "Model",
    source: "ImageSource",
    *,
    batch_size: int,
    num_workers: int | None,
    bad_images: "BadImages",
) -> "Predictions":
    """Score all images of a source, with a progress bar."""
    from bottleneck_transformer_flax.cli.console import counting_progress
    from bottleneck_transformer_flax.evaluation.evaluator import evaluate

    with counting_progress(Console(stderr=True, emoji=False)) as progress:
        task = progress.add_task("evaluating", total=len(source))
        predictions = evaluate(
            model.score,
            source,
            model.preprocessing,
            num_classes=len(model.classes),
            batch_size=batch_size,
            num_workers=num_workers,
            bad_images=bad_images,
            on_batch=lambda done: progress.update(task, completed=done),
        )
    assert predictions is not None  # Nothing asked it to stop.
    return predictions


def _score_by_neighbours(
    parsed: EvaluateOptions,
    model: "Model",
    images: "RunImages",
    source: "ImageSource",
    split: Split,
    bad_images: "BadImages",
) -> "Predictions":
    """Score all images of a source by their neighbours among the training images."""
    from bottleneck_transformer_flax.cli.console import counting_progress
    from bottleneck_transformer_flax.data.sources.base import relabel
    from bottleneck_transformer_flax.evaluation.neighbours import (
        compute_features,
        predict_by_neighbours,
    )

    assert parsed.knn is not None
    if split in ("train", "all"):
        raise ConfigError(
            f"split is {split!r}, whose images would be among their own neighbours; choose "
            "another with --split"
        )
    known, *_ = choose_images(images, parsed.data, "train")
    found = []
    with counting_progress(Console(stderr=True, emoji=False)) as progress:
        for each in (relabel(known, model.classes), source):
            task = progress.add_task("computing features", total=len(each))
            features = compute_features(
                model.features,
                each,
                model.preprocessing,
                batch_size=parsed.batch_size,
                num_workers=parsed.num_workers,
                bad_images=bad_images,
                on_batch=partial(_advance, progress, task),
            )
            found.append(features)
    neighbours, unknown = found
    return predict_by_neighbours(
        neighbours, unknown, source, k=parsed.knn, num_classes=len(model.classes)
    )


def _advance(progress: Progress, task: TaskID, done: int) -> None:
    progress.update(task, completed=done)


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
