"""What a run leaves behind: models for inference, scores, and pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bottleneck_transformer_flax.checkpoints.hub import means_repository
from bottleneck_transformer_flax.checkpoints.model_cards import card_metadata
from bottleneck_transformer_flax.checkpoints.pretrained import save_pretrained
from bottleneck_transformer_flax.data.datasets import scored_split
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import CheckpointError, one_line
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.figures.confusion import draw_confusion_matrix
from bottleneck_transformer_flax.figures.curves import draw_training_curves
from bottleneck_transformer_flax.figures.reliability import draw_reliability_diagram
from bottleneck_transformer_flax.figures.style import save_png
from bottleneck_transformer_flax.files import write_text
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Setup
from bottleneck_transformer_flax.training.train_state import Variables

# Names on the hub of the data sets that have one.
DATA_SETS = {"embedded": "Fashion-MNIST subset", "fashion-mnist": "Fashion-MNIST"}


def save_best(run: RunDirectory, setup: Setup, variables: Variables, row: dict[str, Any]) -> None:
    """Replace ``best/`` with the model of an epoch.

    Args:
        run: where to write.
        setup: setup of the run.
        variables: variables of the model.
        row: the epoch's row of ``metrics.jsonl``.

    Raises:
        CheckpointError: when it cannot be written, such as on a full disk.
    """
    validation = setup.splits.validation
    evaluation = {
        "split": "validation",
        "origin": "" if validation is None else validation.origin,
        "top1": row["validation_accuracy"],
        "top5": row["validation_top5"],
        "balanced_accuracy": row.get("validation_balanced_accuracy"),
        "macro_f1": row.get("validation_macro_f1"),
        "loss": row["validation_loss"],
        # Without the unreadable ones. Earlier versions recorded neither this nor the two above.
        "count": row.get("validation_count", len(validation or ())),
        "temperature": row.get("temperature"),
    }
    when = f"after epoch {row['epoch']}, the best on the validation images"
    card = model_card(setup, evaluation, when)
    try:
        _save(run.best, setup, variables, card, row.get("temperature"))
    except OSError as error:
        raise CheckpointError(
            f"the best model could not be written to {run.best}: {error.strerror or error}; the "
            "checkpoints are intact. Check the disk, then continue with --resume"
        ) from error


def write_artifacts(
    run: RunDirectory,
    setup: Setup,
    variables: Variables,
    rows: Sequence[dict[str, Any]],
    predictions: Predictions | None,
    evaluation: dict[str, Any] | None,
) -> None:
    """Write what a finished run leaves.

    Args:
        run: where to write.
        setup: setup of the run.
        variables: variables of the last model.
        rows: rows of ``metrics.jsonl``.
        predictions: predictions of this model; None where there are no images to score it on.
        evaluation: content of ``evaluation.json``; None without predictions.
    """
    save_png(draw_training_curves(rows), run.curves)
    source = setup.splits.train
    if predictions is not None and evaluation is not None:
        source = getattr(setup.splits, evaluation["split"])
        write_text(run.evaluation, json.dumps(evaluation, indent=2) + "\n")
        predictions.save(run.predictions)
        split = scored_split(evaluation)
        confusion = draw_confusion_matrix(predictions.confusion, setup.class_names, split=split)
        save_png(confusion, run.confusion)
        bins = predictions.reliability
        diagram = draw_reliability_diagram(bins.counts, bins.accuracies, ece=bins.ece, split=split)
        save_png(diagram, run.reliability)
    _save_example(source, run.example)
    last = rows[-1]["epoch"]
    early = "" if last == setup.config.epochs else f", with epoch {last}, where the run ended early"
    # Last, since its presence says that the run is finished.
    card = model_card(setup, evaluation, f"after the last step{early}")
    _save(run.pretrained, setup, variables, card, (evaluation or {}).get("temperature"))


def _save(
    folder: Path, setup: Setup, variables: Variables, card: str, temperature: float | None
) -> None:
    variables = jax.tree.map(np.asarray, variables)
    preprocessing = setup.preprocessing.replace(temperature=temperature or 1.0)
    save_pretrained(folder, setup.model, variables, preprocessing, setup.class_names, card=card)


def _save_example(source: ImageSource, path: Path) -> None:
    """Save the first image of a source that can be read."""
    for index in range(len(source)):
        try:
            source.read(index).save(path)
        except ValueError:
            continue
        return


def model_card(setup: Setup, evaluation: dict[str, Any] | None, when: str) -> str:
    """The model card in Markdown.

    It is meant to be shared, so it tells the names of folders and not where they are.

    Args:
        setup: setup of the run.
        evaluation: scores of the model and the split they are from; None for no scores.
        when: the moment of the run that the variables are from.
    """
    config = setup.config
    height, width = setup.preprocessing.size
    averaged = "averaged" if config.optimization.ema_decay is not None else "last"
    data = DATA_SETS.get(config.data, one_line(_folder_name(config.data)))
    pretrained = config.pretrained
    on_hub = pretrained is not None and means_repository(pretrained)
    if pretrained is not None and not on_hub:
        pretrained = _folder_name(pretrained)
    shared = config.replace(
        data=config.data if config.data in DATA_SETS else data, pretrained=pretrained
    )
    # Of five classes, or fewer, the right one is always among the five likeliest.
    names = ("top1", "top5") if len(setup.class_names) > 5 else ("top1",)
    metadata = card_metadata(
        model_name=setup.model_name,
        dataset_name=data,
        metrics={name: evaluation[name] for name in names} if evaluation else {},
        split=evaluation["split"] if evaluation else None,
        base_model=pretrained if on_hub else None,
    )
    return f"""{metadata}
# {setup.model_name}, {len(setup.class_names)} classes

A Bottleneck Transformer (arXiv 2101.11605) trained by `bottleneck-transformer-flax`.

| | |
|---|---|
| data | {data}: {", ".join(setup.splits.counts())} images |
| input | {height} × {width} pixels |
| start | {pretrained or "random weights"} |
| epochs | {config.epochs} |
| seed | {config.seed} |
| variables | the {averaged} ones, {when} |
{_score_rows(evaluation, len(setup.class_names))}
Every option of the run:

```json
{json.dumps(shared.to_json(), indent=2)}
```
"""


def _score_rows(evaluation: dict[str, Any] | None, num_classes: int) -> str:
    if evaluation is None:
        return ""
    loss = evaluation["loss"]
    scores = {
        "top-1": evaluation["top1"],
        "top-5": evaluation["top5"] if num_classes > 5 else None,
        "balanced accuracy": evaluation["balanced_accuracy"],
        "macro-F1": evaluation["macro_f1"],
        "loss": "not finite" if loss is None else loss,
        "temperature": evaluation.get("temperature"),
    }
    rows = [(f"{scored_split(evaluation)} images", evaluation["count"])]
    rows += [
        (name, f"{score:.4f}" if isinstance(score, float) else score)
        for name, score in scores.items()
        if score is not None
    ]
    return "".join(f"| {name} | {value} |\n" for name, value in rows)


def _folder_name(path: str) -> str:
    return Path(path).resolve().name
