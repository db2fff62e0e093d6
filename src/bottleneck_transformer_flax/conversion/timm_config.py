"""``config.json`` of timm's repositories on the Hugging Face hub: which model, trained how."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError, reason
from bottleneck_transformer_flax.preprocessing import Preprocessing

_DEFAULTS = {"in_chans": 3, "global_pool": "avg", "output_stride": 32}
"""Model arguments that may be given, but not changed."""
_HARMLESS = ("num_classes", "img_size", "drop_rate", "drop_path_rate", "pretrained")
"""Model arguments that the weights show, that are read below, or that only training uses."""


class TimmConfig(NamedTuple):
    """Description of a repository's weights.

    Attributes:
        architecture: timm's name of the model.
        preprocessing: how images become model input.
        classes: names of the outputs, None if not stated.
        licence: licence of the weights, None if not stated.
    """

    architecture: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    licence: str | None


def read_timm_config(path: Path, repository: str) -> TimmConfig:
    """Read timm's ``config.json``.

    Source: ``save_config_for_hf`` and ``_parse_model_cfg`` in timm 1.0, ``models/_hub.py``.

    Args:
        path: file to read.
        repository: name for messages.

    Raises:
        CheckpointError: when the file does not describe one of timm's image classifiers, changes it
            in a way that this package does not support.
    """
    file = f"the config.json of {repository}"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        weights = values["pretrained_cfg"]
        model_args = values.get("model_args", {})
        _check_supported(model_args, weights.get("crop_mode"), file)
        size = model_args.get("img_size") or weights["input_size"][1:]
        return TimmConfig(
            architecture=str(values["architecture"]),
            preprocessing=Preprocessing(
                size=(size, size) if isinstance(size, int) else size,
                crop=weights["crop_pct"],
                mean=weights["mean"],
                std=weights["std"],
                interpolation=weights["interpolation"],
            ),
            classes=_class_names(values.get("label_names")),
            licence=weights.get("license") or None,
        )
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} does not describe one of timm's models: {reason(error)}; expected the file as "
            "timm writes it"
        ) from error


def _check_supported(model_args: dict[str, Any], crop_mode: str | None, file: str) -> None:
    """Check that neither the model nor its preprocessing differs from what their names say."""
    changes = [
        f"{name} = {value!r}"
        for name, value in model_args.items()
        if name not in _HARMLESS and value not in (None, _DEFAULTS.get(name))
    ]
    if crop_mode not in (None, "center"):
        changes.append(f"crop_mode = {crop_mode!r}")
    if changes:
        raise CheckpointError(
            f"{file} changes the model or its preprocessing in a way that this package does not "
            f"support: {', '.join(changes)}"
        )


def _class_names(labels: Any) -> tuple[str, ...] | None:
    """Names of the outputs in order, those of ImageNet's synsets by the names of their classes."""
    if not labels:
        return None
    if isinstance(labels, dict):
        labels = [name for _, name in sorted(labels.items(), key=lambda item: int(item[0]))]
    synsets = imagenet.names_of_synsets()
    return tuple(synsets.get(str(name), str(name)) for name in labels)
