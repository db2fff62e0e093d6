"""What a finished run leaves: the model for inference, its scores, and pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bottleneck_transformer_flax.checkpoints.cards import card_metadata
from bottleneck_transformer_flax.checkpoints.hub import means_repository
from bottleneck_transformer_flax.checkpoints.pretrained import save_pretrained
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.figures.confusion import plot_confusion_matrix
from bottleneck_transformer_flax.figures.curves import plot_training_curves
from bottleneck_transformer_flax.files import write_text
from bottleneck_transformer_flax.models.surgery import Variables
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Plan


def write_results(
    run: RunDirectory,
    plan: Plan,
    *,
    variables: Variables,
    rows: Sequence[dict[str, Any]],
    predictions: Predictions | None,
) -> dict[str, Any] | None:
    """Write everything, and return the evaluation as it is in ``evaluation.json``, if any."""
    classes, scored = plan.splits.train.class_names, plan.scored
    evaluation = None if predictions is None else predictions.to_json(classes)
    card = model_card(plan, evaluation)
    save_pretrained(run.pretrained, plan.model, variables, plan.preprocessing, classes, card=card)
    plot_training_curves(rows, run.curves)
    if predictions is not None:
        write_text(run.evaluation, json.dumps(evaluation, indent=2) + "\n")
        plot_confusion_matrix(predictions.confusion, classes, run.confusion)
    shown = plan.splits.train if scored is None else scored
    for index in range(len(shown)):
        try:
            shown.read(index).save(run.example)
        except ValueError:
            continue
        break
    return evaluation


# What the data sets with names are called on the hub.
DATA_SETS = {"embedded": "Fashion-MNIST subset", "fashion-mnist": "Fashion-MNIST"}


def model_card(plan: Plan, evaluation: dict[str, Any] | None, *, epoch: int | None = None) -> str:
    """The card of a trained model after an epoch, by default the last, in Markdown.

    It is to be shared: folders have their names in it, and not where they are.
    """
    config, splits = plan.config, plan.splits
    height, width = plan.preprocessing.size
    averaged = "averaged" if config.optimization.ema_decay is not None else "last"
    when = (
        f"after epoch {epoch}, the best on the validation images"
        if epoch
        else "after the last step"
    )
    data = DATA_SETS.get(config.data, _folder_name(config.data))
    on_hub = config.pretrained is not None and means_repository(config.pretrained)
    pretrained = config.pretrained
    if pretrained is not None and not on_hub:
        pretrained = _folder_name(pretrained)
    options = config.replace(
        data=config.data if config.data in DATA_SETS else data, pretrained=pretrained
    )
    scores = {} if evaluation is None else evaluation
    metadata = card_metadata(
        model_name=plan.model_name,
        dataset_name=data,
        metrics={name: scores[name] for name in ("top1", "top5") if name in scores},
        base_model=pretrained if on_hub else None,
    )
    return f"""{metadata}
# {plan.model_name}, {len(splits.train.class_names)} classes

A Bottleneck Transformer (arXiv 2101.11605) trained by `bottleneck-transformer-flax`.

| | |
|---|---|
| data | {data}, {plan.splits.description.partition(" images")[0]} images |
| input | {height} × {width} pixels |
| start | {pretrained or "random weights"} |
| epochs | {config.epochs} |
| seed | {config.seed} |
| variables | the {averaged} ones, {when} |
{_score_rows(plan, scores)}
Every option of the run:

```json
{json.dumps(options.to_json(), indent=2)}
```
"""


def _score_rows(plan: Plan, scores: dict[str, Any]) -> str:
    if not scores:
        return ""
    split = "test" if plan.splits.validation is None else "validation"
    return f"""| {split} images | {scores["count"]} |
| top-1 | {scores["top1"]:.4f} |
| top-5 | {scores["top5"]:.4f} |
| loss | {scores["loss"]} |
"""


def _folder_name(path: str) -> str:
    return Path(path).resolve().name
