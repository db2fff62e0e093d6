"""Metadata of model cards, as the Hugging Face hub reads it: YAML above the text."""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

from bottleneck_transformer_flax.checkpoints.hub import is_repository
from bottleneck_transformer_flax.checkpoints.pretrained_files import CARD

_METRICS = {
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("top_5_accuracy", "Top-5 accuracy"),
}
"""Identifier and title of each metric on the hub."""
# Legal in JSON, but line breaks or illegal in YAML.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def card_metadata(
    *,
    model_name: str,
    dataset_name: str,
    metrics: Mapping[str, float],
    split: str | None = None,
    licence: str | None = None,
    base_model: str | None = None,
) -> str:
    """Write the metadata block that opens a card, from its first "---" to its last.

    The form is the hub's: https://huggingface.co/docs/hub/model-cards.

    Args:
        model_name: name that the results are listed under.
        dataset_name: data set that the metrics were measured on.
        metrics: fractions by "top1", "top5" or one of the hub's identifiers; values that are not
            finite are left out.
        split: split of the data set that they were measured on.
        licence: the hub's identifier, such as "apache-2.0".
        base_model: hub repository that this model was fine-tuned from. Any other name is left out,
            because the hub would refuse the card.
    """
    lines = [] if licence is None else [f"license: {_quoted(licence)}"]
    lines += [
        "library_name: bottleneck-transformer-flax",
        "pipeline_tag: image-classification",
    ]
    if base_model is not None and is_repository(base_model):
        lines += [f"base_model: {_quoted(base_model.partition('@')[0])}"]
    if finite := {name: value for name, value in metrics.items() if math.isfinite(value)}:
        lines += _results(model_name, dataset_name, split, finite)
    return "\n".join(["---", *lines, "---", ""])


def licence_of_card(folder: Path) -> str | None:
    """Licence that the model card in a folder states, by the hub's name for it."""
    if not (folder / CARD).is_file():
        return None
    from huggingface_hub import metadata_load

    try:
        licence = (metadata_load(folder / CARD) or {}).get("license")
    except Exception:  # The errors of its YAML reader share no base class.
        return None
    return licence if isinstance(licence, str) else None


def _results(
    model_name: str, dataset_name: str, split: str | None, metrics: Mapping[str, float]
) -> list[str]:
    # The hub writes identifiers as in "fashion-mnist".
    identifier = re.sub(r"[^a-z0-9]+", "-", dataset_name.lower()).strip("-") or "unknown"
    lines = [
        "model-index:",
        f"- name: {_quoted(model_name)}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      type: {_quoted(identifier)}",
        f"      name: {_quoted(dataset_name)}",
        *([] if split is None else [f"      split: {_quoted(split)}"]),
        "    metrics:",
    ]
    for key, value in metrics.items():
        kind, name = _METRICS.get(key, (key, key))
        lines += [
            f"    - type: {_quoted(kind)}",
            f"      name: {_quoted(name)}",
            # Not 1e-05, which YAML would read as a text.
            f"      value: {Decimal(repr(float(value))):f}",
        ]
    return lines


def _quoted(text: str) -> str:
    """Quote a text, so that YAML never reads it as a number, a list or a truth value."""
    return _NOT_IN_YAML.sub(
        lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False)
    )
