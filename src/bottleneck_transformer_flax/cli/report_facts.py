"""Facts about a run, as its page shows them."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck_transformer_flax.data.datasets import named_split, scored_split
from bottleneck_transformer_flax.figures.report import ConfusedPair, Fact
from bottleneck_transformer_flax.training.config import RunConfig

if TYPE_CHECKING:
    from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
    from bottleneck_transformer_flax.evaluation.predictions import Predictions

MOST_PAIRS = 10


def headline_of_evaluation(evaluation: dict[str, Any]) -> tuple[Fact, ...]:
    """Scores of the model that the run saved."""
    part, loss = evaluation["split"], evaluation["loss"]
    facts = [(f"{scored_split(evaluation)} accuracy", _percent(evaluation["top1"]))]
    # Of five classes, or fewer, the right one is always among the five likeliest.
    if len(evaluation["per_class"]) > 5:
        facts.append((f"{part} top-5 accuracy", _percent(evaluation["top5"])))
    # Earlier runs have none of these.
    if "ece" in evaluation:
        facts += [
            (f"{part} balanced accuracy", _percent(evaluation["balanced_accuracy"])),
            (f"{part} macro-F1", f"{evaluation['macro_f1']:.4f}"),
            (f"{part} calibration error (ECE)", _percent(evaluation["ece"])),
        ]
    return (*facts, (f"{part} loss", "not finite" if loss is None else f"{loss:.4f}"))


def _percent(fraction: float | None) -> str:
    return "not finite" if fraction is None else f"{100 * fraction:.2f} %"


def headline_of_epochs(rows: Sequence[dict[str, Any]]) -> tuple[Fact, ...]:
    """Best validation accuracy with its epoch, and the time that all epochs took."""
    validated = [row for row in rows if row.get("validation_accuracy") is not None]
    facts: list[Fact] = []
    if validated:
        best = max(
            reversed(validated),
            key=lambda row: (row["validation_accuracy"], row.get("best", False)),
        )
        facts.append(
            (
                f"best {named_split('validation', best.get('validation_origin'))} accuracy, "
                f"epoch {best['epoch']}",
                f"{100 * best['validation_accuracy']:.2f} %",
            )
        )
    if rows:
        seconds = round(sum(row.get("seconds", 0.0) for row in rows))
        facts.append(("training time", str(timedelta(seconds=seconds))))
    return tuple(facts)


def facts_of_run(config: RunConfig, rows: Sequence[dict[str, Any]]) -> tuple[Fact, ...]:
    """Data, starting point, epochs and speed."""
    start = "random weights" if config.pretrained is None else config.pretrained
    facts = [("data", config.data), ("start", start), ("epochs", f"{len(rows)} of {config.epochs}")]
    if rows:
        facts.append(("speed", f"{rows[-1].get('images_per_second', 0):,.0f} images/s"))
    return tuple(facts)


def facts_of_model(pretrained: "Pretrained", evaluation: dict[str, Any]) -> tuple[Fact, ...]:
    """Input size, parameters, classes and calibration of the model, and number of images scored."""
    from bottleneck_transformer_flax.models.flops import count_parameters

    height, width = pretrained.preprocessing.size
    calibration = "none"
    if "temperature" in evaluation:
        calibration = (
            f"temperature {evaluation['temperature']:.3f}, fitted on the validation images; "
            f"{evaluation['split']} calibration error {_percent(evaluation['uncalibrated_ece'])} "
            f"before and {_percent(evaluation['ece'])} after it"
        )
    return (
        ("input", f"{height} × {width} pixels"),
        ("parameters", f"{count_parameters(pretrained.variables):,}"),
        ("classes", f"{len(pretrained.classes):,}"),
        ("calibration", calibration),
        (f"{scored_split(evaluation)} images", f"{evaluation['count']:,}"),
    )


def confused_pairs(predictions: "Predictions", classes: Sequence[str]) -> tuple[ConfusedPair, ...]:
    """Pairs of classes most often confused, the most frequent first."""
    confusion = predictions.confusion
    counts, wrong = confusion.sum(axis=1), confusion * ~np.eye(len(classes), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    return tuple(
        ConfusedPair(
            classes[true_class],
            classes[predicted],
            int(wrong[true_class, predicted]),
            float(wrong[true_class, predicted] / counts[true_class]),
        )
        for true_class, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[true_class, predicted]
    )


def options_in_words(config: RunConfig) -> Iterator[Fact]:
    """Name every option of a run by its path, with its value."""
    for path, value in config.flattened().items():
        as_text = value if isinstance(value, str) else json.dumps(value)
        yield path, "not set" if value is None else as_text
