"""timm's repositories on the Hugging Face hub: ``config.json`` says what the weights are of."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.preprocessing import Preprocessing

_AS_BUILT = {"in_chans": 3, "global_pool": "avg", "output_stride": 32}
"""What a repository may say of the model without changing it."""
_NOT_OF_INFERENCE = ("num_classes", "img_size", "drop_rate", "drop_path_rate", "pretrained")


class TimmModel(NamedTuple):
    """What a repository of timm's says of its weights.

    Attributes:
        architecture: timm's name of the model.
        preprocessing: how images become its input.
        num_classes: outputs; None where it does not say.
        classes: the names of its outputs; None where it does not say.
        licence: of the weights; None where it does not say.
    """

    architecture: str
    preprocessing: Preprocessing
    num_classes: int | None
    classes: tuple[str, ...] | None
    licence: str | None


def read_timm_config(path: Path, repository: str) -> TimmModel:
    """The model that timm's ``config.json`` describes.

    Source: ``save_config_for_hf`` and ``_parse_model_cfg`` in timm 1.0, ``models/_hub.py``.

    Args:
        path: of the file.
        repository: what it is called in messages.

    Raises:
        CheckpointError: when it describes no image classifier of timm's, or one that is changed in
            a way that this package does not know.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        described = values["pretrained_cfg"]
        model_args = values.get("model_args", {})
        _check_unchanged(model_args, described.get("crop_mode"), repository)
        size = model_args.get("img_size") or described["input_size"][1:]
        return TimmModel(
            architecture=str(values["architecture"]),
            preprocessing=Preprocessing(
                size=(size, size) if isinstance(size, int) else size,
                crop=described["crop_pct"],
                mean=described["mean"],
                std=described["std"],
                interpolation=described["interpolation"],
            ),
            num_classes=values.get("num_classes"),
            classes=_class_names(values),
            licence=described.get("license") or None,
        )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    except CheckpointError:
        raise
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        missing = f": it has no {error.args[0]}" if isinstance(error, KeyError) else ""
        wrong = f": {error}" if isinstance(error, ConfigError) else missing
        raise CheckpointError(
            f"the config.json of {repository} describes no model of timm's{wrong}; expected a "
            "repository of timm's, with config.json as timm writes it"
        ) from error


def _check_unchanged(model_args: dict[str, Any], crop_mode: str | None, repository: str) -> None:
    """See that the model, and what its images go through, are what their names say."""
    changes = [
        f"{name} = {value!r}"
        for name, value in model_args.items()
        if name not in _NOT_OF_INFERENCE and value not in (None, _AS_BUILT.get(name))
    ]
    if crop_mode not in (None, "center"):
        changes.append(f"crop_mode = {crop_mode!r}")
    if changes:
        raise CheckpointError(
            f"the config.json of {repository} changes the model or its preprocessing in a way that "
            f"this package does not have: {', '.join(changes)}"
        )


def _class_names(values: dict[str, Any]) -> tuple[str, ...] | None:
    """The names of the outputs in order; a synset goes by the name of its class."""
    names = values.get("label_names")
    if not names:
        return None
    if isinstance(names, dict):
        names = [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    synsets = imagenet.names_of_synsets()
    return tuple(synsets.get(str(name), str(name)) for name in names)
