"""``botnet report``: one page about a run."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from errno import EISDIR
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import print_notes
from bottleneck_transformer_flax.cli.evaluate import score
from bottleneck_transformer_flax.cli.report_facts import (
    confused_pairs,
    facts_of_model,
    facts_of_run,
    headline_of_epochs,
    headline_of_evaluation,
    options_in_words,
)
from bottleneck_transformer_flax.data.datasets import scored_split
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError, DataError, reraise
from bottleneck_transformer_flax.figures.report import (
    ClassAccuracy,
    RunPage,
    ShownMistake,
    report_page,
    thumbnail,
)
from bottleneck_transformer_flax.files import write_text
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.run_directory import RunDirectory, newest_run

if TYPE_CHECKING:
    from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
    from bottleneck_transformer_flax.data.sources.base import ImageSource
    from bottleneck_transformer_flax.evaluation.predictions import Predictions
    from bottleneck_transformer_flax.training.run_images import RunImages


@dataclass(frozen=True)
class ReportOptions:
    """Write a page about a run: its curves, its scores and its most confident mistakes.

    The page is a single HTML file with everything in it, to open in a browser, print or send.
    """

    run: tyro.conf.Positional[Path | None] = None
    """The folder of a run; by default the newest finished one below runs/."""
    out: Path | None = None
    """The file to write; by default report.html in the folder of the run."""
    count: int = 24
    """Largest number of mistakes to show."""
    data: str | None = None
    """Where the run's images are now, if they have moved."""
    batch_size: options.BatchSize = 64
    num_workers: options.NumWorkers = None
    json: bool = False
    """Print the page's path and its notes as one line of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(ReportOptions, "report", arguments)
    if parsed.count < 0:
        raise ConfigError(f"count is {parsed.count}; expected at least 0")
    run_directory = _choose(parsed.run)
    config = run_directory.read_config()
    out = parsed.out or run_directory.path / "report.html"
    if out.is_dir():
        raise IsADirectoryError(EISDIR, "is a folder; expected the name of a file", str(out))
    page = _page(run_directory, config, parsed)
    print_notes(page.notes)
    # Only now: an empty folder among the run's images would count as a class without images.
    out.parent.mkdir(parents=True, exist_ok=True)
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
    # These import jax, which takes a second; help and bad usage are answered without it.
    from bottleneck_transformer_flax.figures.curves import draw_training_curves
    from bottleneck_transformer_flax.figures.style import png_bytes
    from bottleneck_transformer_flax.training.artifacts import DATA_SETS
    from bottleneck_transformer_flax.training.metrics import Progress
    from bottleneck_transformer_flax.training.run_images import RunImages

    rows = run_directory.read_metrics()
    images = RunImages.of_run(run_directory)
    data = DATA_SETS.get(config.data, Path(images.place).resolve().name)
    page = RunPage(
        title=f"{config.variant or config.pretrained} on {data}",
        run=str(run_directory.path),
        headline=headline_of_epochs(rows),
        facts=facts_of_run(config, rows),
        curves=png_bytes(draw_training_curves(rows)) if rows else None,
        options=tuple(options_in_words(config)),
    )
    note = f"The run is not finished: {len(rows)} of {config.epochs} epochs are over."
    if run_directory.pretrained.is_dir() and run_directory.evaluation.is_file():
        page = _finished(page, run_directory, images, parsed)
        if rows and not Progress(rows[-1]["step"], rows).has_ended(config):
            note += " The scores are those of the model with which it ended before."
            page = dataclasses.replace(page, notes=(note, *page.notes))
        return page
    validated = any(row.get("validation_accuracy") is not None for row in rows)
    if run_directory.pretrained.is_dir() and not validated:
        note = "The run has no scores, because no images were held out."
    elif len(rows) == config.epochs:
        resume = options.command_line("train", "--resume", "--run-directory", run_directory.path)
        note = f"All epochs are over, but results are missing: {resume} writes them."
    return dataclasses.replace(page, notes=(note,))


def _finished(
    page: RunPage, run_directory: RunDirectory, images: "RunImages", parsed: ReportOptions
) -> RunPage:
    """The page with the results that only a finished run has."""
    from bottleneck_transformer_flax.checkpoints.pretrained import read_pretrained
    from bottleneck_transformer_flax.evaluation.predictions import Predictions
    from bottleneck_transformer_flax.figures.fonts import numbered

    evaluation = _read_evaluation(run_directory)
    split = evaluation["split"]
    pretrained = read_pretrained(run_directory.pretrained)
    kept, confusion = run_directory.predictions, run_directory.confusion
    reliability = run_directory.reliability
    predictions = Predictions.load(kept) if kept.is_file() else None
    mistakes: tuple[ShownMistake, ...] = ()
    notes: list[str] = []
    try:
        source = _scored_images(images, split, parsed.data, pretrained.classes)
        if predictions is None:
            predictions = _predict(pretrained, source, parsed, notes)
            if (count := predictions.count) != evaluation["count"]:
                notes.append(
                    f"The run was scored on {evaluation['count']} {split} images; there are "
                    f"{count} now, and the mistakes are among these."
                )
        mistakes = tuple(_shown_mistakes(predictions, source, parsed.count))
    except DataError as error:
        notes.append(f"The mistakes are not shown: {error}. If the images have moved, give --data.")
    return dataclasses.replace(
        page,
        notes=tuple(notes),
        headline=headline_of_evaluation(evaluation) + page.headline,
        facts=page.facts + facts_of_model(pretrained, evaluation),
        split=scored_split(evaluation),
        mistakes=mistakes,
        pairs=() if predictions is None else confused_pairs(predictions, pretrained.classes),
        classes=tuple(
            ClassAccuracy(row["class"], row["accuracy"], row["count"])
            for row in evaluation["per_class"]
        ),
        confusion=confusion.read_bytes() if confusion.is_file() else None,
        legend=tuple(numbered(pretrained.classes)),
        reliability=reliability.read_bytes() if reliability.is_file() else None,
    )


def _read_evaluation(run_directory: RunDirectory) -> dict[str, Any]:
    file = run_directory.evaluation
    with reraise(ValueError, CheckpointError, f"{file} cannot be read"):
        evaluation = json.loads(file.read_text(encoding="utf-8"))
    needed = {"top1", "top5", "loss", "count", "per_class"}
    if not isinstance(evaluation, dict) or not needed <= evaluation.keys():
        raise CheckpointError(f"{file} cannot be read: expected {', '.join(sorted(needed))}")
    # Earlier runs didn't record which split they held out.
    return {"split": "held-out"} | evaluation


def _scored_images(
    images: "RunImages", split: str, data: str | None, classes: tuple[str, ...]
) -> "ImageSource":
    from bottleneck_transformer_flax.data.sources.base import relabel
    from bottleneck_transformer_flax.training.run_images import load_images

    if data is None:
        data, splits = images.find(split)
    elif not images.are(splits := load_images(images.config, data), split):
        raise DataError(f"{data} holds other images than those that the run was scored on")
    source = splits.validation if split == "validation" or splits.test is None else splits.test
    if source is None:
        raise DataError(f"{data} has no {split} split")
    return relabel(source, classes)


def _predict(
    pretrained: "Pretrained", source: "ImageSource", parsed: ReportOptions, notes: list[str]
) -> "Predictions":
    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.inference.models import FlaxModel

    bad_images = BadImages(skip=True)
    predictions = score(
        FlaxModel(pretrained),
        source,
        batch_size=parsed.batch_size,
        num_workers=parsed.num_workers,
        bad_images=bad_images,
    )
    notes.append("The run kept no predictions; they were computed again for this page.")
    if bad_images.reasons:
        print(bad_images.report(), file=sys.stderr)
        notes.append(f"Images that cannot be read: {len(bad_images.reasons)}.")
    return predictions


def _shown_mistakes(
    predictions: "Predictions", source: "ImageSource", count: int
) -> Iterator[ShownMistake]:
    from bottleneck_transformer_flax.evaluation.predictions import digest

    if predictions.source_digest != digest(source):
        raise DataError("the images are not those that the run was scored on")
    for mistake in predictions.mistakes(count):
        yield ShownMistake(
            picture=thumbnail(source.read(mistake.position)),
            name=source.names[mistake.position],
            true_class=source.class_names[mistake.true_class],
            predicted_class=source.class_names[mistake.predicted_class],
            probability=mistake.probability,
        )
