"""``botnet report``: one page about a run."""

import dataclasses
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from jaxtyping import Int
from PIL import Image
from rich.console import Console

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.report_facts import (
    facts_of_model,
    facts_of_run,
    headline_of_epochs,
    headline_of_test,
    options_in_words,
)
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError, DataError
from bottleneck_transformer_flax.figures.report import (
    ClassAccuracy,
    ConfusedPair,
    RunPage,
    ShownMistake,
    report_page,
)
from bottleneck_transformer_flax.files import write_text
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.run_directory import RunDirectory, newest_run

if TYPE_CHECKING:
    from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
    from bottleneck_transformer_flax.data.sources.base import ImageSource
    from bottleneck_transformer_flax.evaluation.predictions import Predictions

MOST_PAIRS = 10
SMALL_SIDE, LARGE_SIDE = 64, 224
"""In pixels: images up to the one are enlarged to about the other, larger ones reduced to it."""


@dataclass(frozen=True)
class ReportOptions:
    """Write one page about a run: its curves, its scores, and the mistakes it is surest of.

    The page is one HTML file with everything in it, to open in a browser, to print or to send.
    """

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """The folder of a run; by default the newest finished one below runs/."""
    out: Path | None = None
    """The file to write; by default report.html in the folder of the run."""
    count: int = 24
    """Mistakes to show, at most."""
    data: str | None = None
    """Where the run's images are now, if they have moved."""
    batch_size: int = 64
    """Images computed together; the page doesn't depend on it."""
    num_workers: int | None = None
    """Processes that read images; by default one a core, at most one for every thousand files."""
    json: bool = False
    """Print the page's path and what is noted on it as one JSON line."""


def run(arguments: Sequence[str]) -> int:
    """The command."""
    parsed = options.parse(ReportOptions, "report", arguments)
    if parsed.count < 0:
        raise ConfigError(f"count is {parsed.count}; expected at least 0")
    run_directory = _choose(parsed.run)
    config = run_directory.read_config()
    out = parsed.out or run_directory.path / "report.html"
    if out.is_dir():
        raise ConfigError(f"out is {out}, which is a folder; expected the name of a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    page = _page(run_directory, config, parsed)
    for note in page.notes:
        print(f"note: {note}", file=sys.stderr)
    write_text(out, report_page(page))
    print(
        json.dumps({"report": str(out), "notes": page.notes}) if parsed.json else f"report  {out}"
    )
    return 0


def _choose(given: Path | None) -> RunDirectory:
    if given is not None:
        return RunDirectory(given)
    newest = newest_run(options.RUNS, having="pretrained")
    if newest is None:
        raise CheckpointError(
            f"there is no finished run in {options.RUNS}/; name the folder of a run, or train one "
            "with `botnet train`"
        )
    return newest


def _page(run_directory: RunDirectory, config: RunConfig, parsed: ReportOptions) -> RunPage:
    # jax, which takes a second to import, only now: help and bad usage are answered at once.
    from bottleneck_transformer_flax.training.callbacks import read_rows
    from bottleneck_transformer_flax.training.results import DATA_SETS

    rows = read_rows(run_directory)
    data = DATA_SETS.get(config.data, Path(config.data).resolve().name)
    page = RunPage(
        title=f"{config.variant or config.pretrained} on {data}",
        run=str(run_directory.path),
        headline=headline_of_epochs(rows),
        facts=facts_of_run(config, rows),
        curves=_curves(rows),
        options=tuple(options_in_words(config)),
    )
    if run_directory.pretrained.is_dir() and run_directory.evaluation.is_file():
        return _finished(page, run_directory, config, parsed)
    note = f"The run is not finished: {len(rows)} of {config.epochs} epochs are over."
    if len(rows) == config.epochs:
        note = "The last epoch is over, but not its results: botnet train --resume writes them."
    return dataclasses.replace(page, notes=(note,))


def _finished(
    page: RunPage, run_directory: RunDirectory, config: RunConfig, parsed: ReportOptions
) -> RunPage:
    """The page with what only a finished run has."""
    from bottleneck_transformer_flax.checkpoints.pretrained import load_pretrained

    evaluation = _read_evaluation(run_directory)
    pretrained = load_pretrained(run_directory.pretrained)
    page = dataclasses.replace(
        page,
        headline=headline_of_test(evaluation) + page.headline,
        facts=page.facts + facts_of_model(pretrained, evaluation),
        classes=tuple(
            ClassAccuracy(row["class"], row["accuracy"], row["count"])
            for row in evaluation["per_class"]
        ),
    )
    if run_directory.confusion.is_file():
        page = dataclasses.replace(page, confusion=run_directory.confusion.read_bytes())
    try:
        source = _test_images(config, parsed.data, pretrained.classes)
        predictions, notes = _predictions(pretrained, source, parsed)
    except DataError as error:
        note = f"The mistakes are not shown: {error}. If the images have moved, give --data."
        return dataclasses.replace(page, notes=(note,))
    if (count := predictions.count) != evaluation["count"]:
        notes.append(
            f"The run was scored on {evaluation['count']} test images and there are {count} now, "
            "which the mistakes are among."
        )
    return dataclasses.replace(
        page,
        notes=tuple(notes),
        mistakes=tuple(_shown_mistakes(predictions, parsed.count, source)),
        pairs=tuple(_pairs(predictions.confusion, pretrained.classes)),
    )


def _read_evaluation(run_directory: RunDirectory) -> dict[str, Any]:
    try:
        evaluation = json.loads(run_directory.evaluation.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{run_directory.evaluation} cannot be read: {error}") from error
    needed = {"top1", "top5", "loss", "count", "per_class"}
    if not isinstance(evaluation, dict) or not needed <= evaluation.keys():
        raise CheckpointError(
            f"{run_directory.evaluation} cannot be read: expected {', '.join(sorted(needed))}"
        )
    return evaluation


def _test_images(config: RunConfig, data: str | None, classes: tuple[str, ...]) -> "ImageSource":
    from bottleneck_transformer_flax.data.datasets import load_splits
    from bottleneck_transformer_flax.data.sources.base import relabel

    splits = load_splits(
        data or config.data,
        validation_fraction=config.input.validation_fraction,
        split_seed=config.input.split_seed,
    )
    source = splits.test if splits.validation is None else splits.validation
    if source is None:
        raise DataError(f"no images of {data or config.data} are held out")
    return relabel(source, classes)


def _predictions(
    pretrained: "Pretrained", source: "ImageSource", parsed: ReportOptions
) -> "tuple[Predictions, list[str]]":
    """Predictions, and a note on images that cannot be read."""
    from bottleneck_transformer_flax.cli.console import counting_progress
    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.evaluation.evaluator import Evaluator

    evaluator = Evaluator(
        pretrained.model,
        pretrained.preprocessing,
        batch_size=parsed.batch_size,
        num_workers=parsed.num_workers,
    )
    bad_images = BadImages(skip=True)
    with counting_progress(Console(stderr=True, emoji=False)) as progress:
        task = progress.add_task("looking for mistakes", total=len(source))
        predictions = evaluator(
            pretrained.variables,
            source,
            bad_images=bad_images,
            on_batch=lambda done: progress.update(task, completed=done),
        )
    assert predictions is not None  # nothing asked it to stop
    if not bad_images.reasons:
        return predictions, []
    print(bad_images.report(), file=sys.stderr)
    return predictions, [f"Test images that cannot be read: {len(bad_images.reasons)}."]


def _shown_mistakes(
    predictions: "Predictions", count: int, source: "ImageSource"
) -> Iterator[ShownMistake]:
    for mistake in predictions.mistakes(count):
        yield ShownMistake(
            picture=_thumbnail(source.read(mistake.position)),
            name=source.describe(mistake.position),
            true_class=source.class_names[mistake.true_class],
            predicted_class=source.class_names[mistake.predicted_class],
            probability=mistake.probability,
        )


def _thumbnail(image: Image.Image) -> bytes:
    """A small picture of an image; of a tiny one with its pixels to be seen."""
    encoded = io.BytesIO()
    longest = max(image.size)
    if longest <= SMALL_SIDE:
        times = LARGE_SIDE // longest
        size = (times * image.width, times * image.height)
        image.resize(size, Image.Resampling.NEAREST).save(encoded, "PNG", optimize=True)
    else:
        image.thumbnail((LARGE_SIDE, LARGE_SIDE))
        image.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def _pairs(
    confusion: Int[np.ndarray, "classes classes"], classes: Sequence[str]
) -> Iterator[ConfusedPair]:
    """The pairs of classes that most images are mistaken in, the first of them first."""
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]:
        true_class, predicted = np.unravel_index(cell, wrong.shape)
        if images := int(wrong[true_class, predicted]):
            share = images / int(confusion[true_class].sum())
            yield ConfusedPair(classes[true_class], classes[predicted], images, share)


def _curves(rows: Sequence[dict[str, Any]]) -> bytes | None:
    from bottleneck_transformer_flax.figures.curves import plot_training_curves

    if not rows:
        return None
    with TemporaryDirectory() as folder:
        picture = Path(folder, "curves.png")
        plot_training_curves(rows, picture)
        return picture.read_bytes()
