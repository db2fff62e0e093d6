"""timm's repositories on the Hugging Face hub: ``config.json`` says what the weights are of."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.preprocessing import Preprocessing


class TimmModel(NamedTuple):
    """What a repository of timm's says of its weights.

    Attributes:
        architecture: timm's name of the model.
        preprocessing: how images become its input.
        classes: the names of its outputs; None where it does not say.
        licence: of the weights; None where it does not say.
    """

    architecture: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    licence: str | None


def read_timm_config(path: Path) -> TimmModel:
    """The model that timm's ``config.json`` describes.

    Source: ``save_config_for_hf`` in timm 1.0, ``models/_hub.py``.

    Raises:
        CheckpointError: when it describes no image classifier of timm's.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        described = values["pretrained_cfg"]
        _, height, width = described["input_size"]
        return TimmModel(
            architecture=str(values["architecture"]),
            preprocessing=Preprocessing(
                size=(height, width),
                crop=described["crop_pct"],
                mean=described["mean"],
                std=described["std"],
                interpolation=described["interpolation"],
            ),
            classes=_class_names(values),
            licence=described.get("license") or None,
        )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} describes no model of timm's ({type(error).__name__}: {error}); expected a "
            "repository of timm's, with config.json as timm writes it"
        ) from error


def _class_names(values: dict[str, Any]) -> tuple[str, ...] | None:
    """The names of the outputs in order; a synset goes by the name of its class."""
    names = values.get("label_names")
    if not names:
        return None
    if isinstance(names, dict):
        names = [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    synsets = imagenet.names_of_synsets()
    return tuple(synsets.get(str(name), str(name)) for name in names)
