"""What the hub reads of a model card: the YAML above its text. Needs no library."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from bottleneck_transformer_flax.checkpoints.hub import is_repository

_LIBRARY = "bottleneck-transformer-flax"
_TASK = "image-classification"
_METRICS = {
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("top_5_accuracy", "Top-5 accuracy"),
}
"""What the hub calls our metrics, and how its pages name them."""
# JSON has these as they are; YAML reads them as line breaks, or not at all.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def card_metadata(
    *,
    model_name: str,
    dataset_name: str,
    metrics: Mapping[str, float],
    licence: str | None = None,
    base_model: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """The block of metadata that opens a card, from its "---" to its "---".

    The form is the hub's: https://huggingface.co/docs/hub/model-cards.

    Args:
        model_name: what the results are listed under.
        dataset_name: what the metrics were measured on.
        metrics: values as fractions, by "top1", "top5" or a name of the hub's; those that are not
            finite are left out.
        licence: the hub's name for it, such as "apache-2.0".
        base_model: the hub repository of the model that this one was fine-tuned from. Another name
            is left out, because the hub would refuse the card.
        tags: more to be found by.
    """
    lines = [] if licence is None else [f"license: {_quoted(licence)}"]
    lines += [f"library_name: {_quoted(_LIBRARY)}", f"pipeline_tag: {_quoted(_TASK)}"]
    if tags:
        lines += ["tags:", *(f"- {_quoted(tag)}" for tag in tags)]
    if base_model is not None and is_repository(base_model):
        lines += [f"base_model: {_quoted(base_model.partition('@')[0])}"]
    measured = {name: value for name, value in metrics.items() if math.isfinite(value)}
    if measured:
        lines += _model_index(model_name, dataset_name, measured)
    return "\n".join(["---", *lines, "---", ""])


def _model_index(model_name: str, dataset_name: str, metrics: Mapping[str, float]) -> list[str]:
    lines = [
        "model-index:",
        f"- name: {_quoted(model_name)}",
        "  results:",
        "  - task:",
        f"      type: {_quoted(_TASK)}",
        "    dataset:",
        f"      type: {_quoted(_identifier(dataset_name))}",
        f"      name: {_quoted(dataset_name)}",
        "    metrics:",
    ]
    for key, value in metrics.items():
        kind, name = _METRICS.get(key, (key, key))
        # YAML takes 1e-05 for a text.
        number = format(Decimal(repr(float(value))), "f")
        lines += [
            f"    - type: {_quoted(kind)}",
            f"      name: {_quoted(name)}",
            f"      value: {number}",
        ]
    return lines


def _identifier(name: str) -> str:
    """A name in the form of the hub's identifiers: "Fashion-MNIST" is "fashion-mnist"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def _quoted(text: str) -> str:
    """A text as a scalar, so that none is read as a number, a list or a truth value."""
    return _NOT_IN_YAML.sub(
        lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False)
    )
