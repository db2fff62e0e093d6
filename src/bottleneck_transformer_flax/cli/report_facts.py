"""The figures of a run as the rows of its page."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bottleneck_transformer_flax.cli.record_paths import flattened
from bottleneck_transformer_flax.figures.report import Fact
from bottleneck_transformer_flax.training.config import RunConfig

if TYPE_CHECKING:
    from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained


def headline_of_test(evaluation: dict[str, Any]) -> tuple[Fact, ...]:
    """What the model that the run saved came to on the test images."""
    loss = evaluation["loss"]
    return (
        ("test accuracy", f"{100 * evaluation['top1']:.2f} %"),
        ("top-5 accuracy", f"{100 * evaluation['top5']:.2f} %"),
        ("test loss", "not finite" if loss is None else f"{loss:.4f}"),
    )


def headline_of_epochs(rows: Sequence[dict[str, Any]]) -> tuple[Fact, ...]:
    """The best epoch, and the time that all took."""
    tested = [row for row in rows if row.get("test_accuracy") is not None]
    facts: list[Fact] = []
    if tested:
        best = max(tested, key=lambda row: float(row["test_accuracy"]))
        facts.append((f"best, epoch {best['epoch']}", f"{100 * best['test_accuracy']:.2f} %"))
    if rows:
        seconds = round(sum(row.get("seconds", 0.0) for row in rows))
        facts.append(("training time", str(timedelta(seconds=seconds))))
    return tuple(facts)


def facts_of_run(config: RunConfig, rows: Sequence[dict[str, Any]]) -> tuple[Fact, ...]:
    """What was trained on, from what, how far and how fast."""
    start = "random weights" if config.pretrained is None else config.pretrained
    facts = [("data", config.data), ("start", start), ("epochs", f"{len(rows)} of {config.epochs}")]
    if rows:
        facts.append(("speed", f"{rows[-1].get('images_per_second', 0):,.0f} images/s"))
    return tuple(facts)


def facts_of_model(pretrained: "Pretrained", evaluation: dict[str, Any]) -> tuple[Fact, ...]:
    """What the model takes and is made of."""
    from bottleneck_transformer_flax.models.flops import count_parameters

    height, width = pretrained.preprocessing.size
    return (
        ("input", f"{height} × {width} pixels"),
        ("parameters", f"{count_parameters(pretrained.variables):,}"),
        ("classes", f"{len(pretrained.classes):,}"),
        ("test images", f"{evaluation['count']:,}"),
    )


def options_in_words(config: RunConfig) -> Iterator[Fact]:
    """Every option of a run by its path."""
    for path, value in flattened(config.to_json()):
        as_text = value if isinstance(value, str) else json.dumps(value)
        yield path, "not set" if value is None else as_text
