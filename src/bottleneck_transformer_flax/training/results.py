"""What a finished run leaves: the model for inference, its scores, and pictures."""

import json
from collections.abc import Sequence
from typing import Any

from bottleneck_transformer_flax.checkpoints.atomic import write_text
from bottleneck_transformer_flax.checkpoints.pretrained import save_pretrained
from bottleneck_transformer_flax.data.sources import Splits
from bottleneck_transformer_flax.evaluation.metrics import ClassificationSums
from bottleneck_transformer_flax.figures.confusion import plot_confusion_matrix
from bottleneck_transformer_flax.figures.curves import plot_training_curves
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.surgery import Variables
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.run import RunDirectory


def write_results(
    run: RunDirectory,
    *,
    config: RunConfig,
    splits: Splits,
    model: BoTNet,
    variables: Variables,
    preprocessing: Preprocessing,
    rows: Sequence[dict[str, Any]],
    sums: ClassificationSums,
) -> dict[str, Any]:
    """Write everything, and return the evaluation as it is in ``evaluation.json``."""
    classes = splits.train.class_names
    evaluation = sums.to_json(classes)
    card = model_card(config, splits, evaluation, preprocessing)
    save_pretrained(run.pretrained, model, variables, preprocessing, classes, card=card)
    write_text(run.evaluation, json.dumps(evaluation, indent=2) + "\n")
    plot_training_curves(rows, run.curves)
    plot_confusion_matrix(sums.confusion, classes, run.confusion)
    for index in range(len(splits.test)):
        try:
            splits.test.read(index).save(run.example)
        except ValueError:
            continue
        break
    return evaluation


def model_card(
    config: RunConfig, splits: Splits, evaluation: dict[str, Any], preprocessing: Preprocessing
) -> str:
    """The card of a trained model, in Markdown."""
    height, width = preprocessing.size
    averaged = "averaged" if config.optimization.ema_decay is not None else "last"
    return f"""# {config.variant}, {len(splits.train.class_names)} classes

A Bottleneck Transformer (arXiv 2101.11605) trained by `bottleneck-transformer-flax`.

| | |
|---|---|
| data | {splits.description} |
| input | {height} × {width} pixels |
| epochs | {config.epochs} |
| seed | {config.seed} |
| variables | the {averaged} ones, after the last step |
| test images | {evaluation["count"]} |
| top-1 | {evaluation["top1"]:.4f} |
| top-5 | {evaluation["top5"]:.4f} |
| loss | {evaluation["loss"]} |

Every option of the run:

```json
{json.dumps(config.to_json(), indent=2)}
```
"""
