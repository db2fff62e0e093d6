"""timm: how its ByobNet's checkpoints are named and laid out, and its repositories' config.json.

Sources in timm 1.0: ``models/byobnet.py`` and ``models/byoanet.py``, where one fused projection
holds q, k and v; ``save_config_for_hf`` and ``_parse_model_cfg`` in ``models/_hub.py``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.conversion.mapping import (
    CONVOLUTION_1D,
    LINEAR,
    POINTWISE,
    SAME,
    MappedArray,
    Project,
    batch_norm,
    convolution_norm,
    dense,
    projections,
)
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError, reason
from bottleneck_transformer_flax.models.config import STAGE_NAMES, BoTNetConfig
from bottleneck_transformer_flax.preprocessing import Preprocessing

_DEFAULTS = {"in_chans": 3, "global_pool": "avg", "output_stride": 32}
"""Model arguments that may be given, but not changed."""
_HARMLESS = ("num_classes", "img_size", "drop_rate", "drop_path_rate", "pretrained")
"""Model arguments that the weights show, that are read below, or that only training uses."""


def mapping(config: BoTNetConfig) -> Iterator[MappedArray]:
    """Every array of the ByobNet that a config describes, in order."""
    for index in range(1, len(config.stem_channels) + 1):
        yield from _convolution(f"stem.layer_{index}", f"stem.conv{index}")
    stages = [stage for stage in range(4) if config.stage_sizes[stage]]
    for number, stage in enumerate(stages):
        first = int(config.has_patches(stage))
        if first:
            yield from _convolution(f"{STAGE_NAMES[stage]}.patches", f"stages.{number}.0")
        for index, kind in enumerate(config.block_kinds(stage)):
            flax_block = f"{STAGE_NAMES[stage]}.block_{index + 1}"
            torch_block = f"stages.{number}.{first + index}"
            if index == 0 and config.has_shortcut(stage):
                yield from _convolution(f"{flax_block}.shortcut", f"{torch_block}.shortcut")
            if kind == "B":
                yield from _convolution(f"{flax_block}.spatial_1", f"{torch_block}.conv1_kxk")
                yield from _convolution(f"{flax_block}.spatial_2", f"{torch_block}.conv2_kxk")
                continue
            yield from _convolution(f"{flax_block}.reduce", f"{torch_block}.conv1_1x1")
            if kind == "A":
                head_sizes = config.head_sizes(config.inner_channels(stage))
                yield from _attention(flax_block, torch_block, *head_sizes)
            else:
                yield from _convolution(f"{flax_block}.spatial", f"{torch_block}.conv2_kxk")
                yield from _channel_attention(config, flax_block, torch_block)
            yield from _convolution(f"{flax_block}.expand", f"{torch_block}.conv3_1x1")
    if config.final_channels:
        yield from _convolution("final", "final_conv")
    yield from dense("head", "head.fc", LINEAR)


def _convolution(flax_name: str, torch_name: str) -> Iterator[MappedArray]:
    return convolution_norm(flax_name, f"{torch_name}.conv", f"{torch_name}.bn")


def _attention(
    flax_block: str, torch_block: str, query_key: int, value: int
) -> Iterator[MappedArray]:
    attention = f"params.{flax_block}.attention"
    kernels = tuple(f"{attention}.{name}.kernel" for name in ("query", "key", "value"))
    layout = projections(query_key, query_key, value)
    yield MappedArray(f"{torch_block}.self_attn.qkv.weight", kernels, layout)
    for axis in ("height", "width"):
        table = f"{torch_block}.self_attn.pos_embed.{axis}_rel"
        yield MappedArray(table, (f"{attention}.relative_{axis}",), SAME)
    yield from batch_norm(f"{flax_block}.attention_norm", f"{torch_block}.post_attn")


def _channel_attention(
    config: BoTNetConfig, flax_block: str, torch_block: str
) -> Iterator[MappedArray]:
    position = {"middle": "attn", "output": "attn_last"}[config.channel_attention_position]
    if config.se_ratio:
        for layer, fc in (("reduce", "fc1"), ("expand", "fc2")):
            name = f"{flax_block}.squeeze_excite.{layer}"
            yield from dense(name, f"{torch_block}.{position}.{fc}", POINTWISE)
    if config.efficient_channel_attention:
        kernel = f"params.{flax_block}.efficient_attention.neighbours.kernel"
        yield MappedArray(f"{torch_block}.{position}.conv.weight", (kernel,), CONVOLUTION_1D)


TIMM = Project(
    name="timm",
    variants=("botnet26t_256", "sebotnet33ts_256", "botnet50ts_256", "eca_botnext26ts_256"),
    mapping=mapping,
    head_bias="head.fc.bias",
    crop=0.95,
)


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

    Args:
        path: file to read.
        repository: name for messages.

    Raises:
        CheckpointError: when the file does not describe one of timm's image classifiers, or changes
            its model or preprocessing in a way that this package does not support.
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


def timm_config(pretrained: Pretrained, variant: str, licence: str | None) -> dict[str, Any]:
    """What the ``config.json`` of a repository in timm's format holds, for ``read_timm_config``.

    Args:
        pretrained: the model.
        variant: timm's name of it.
        licence: licence of the weights.
    """
    preprocessing, stride = pretrained.preprocessing, pretrained.model.config.total_stride
    size = list(timm_image_size(pretrained))
    return {
        "architecture": variant,
        "num_classes": len(pretrained.classes),
        "num_features": len(pretrained.variables["params"]["head"]["kernel"]),
        "global_pool": "avg",
        "model_args": {"img_size": size},
        "label_names": list(pretrained.classes),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, *size],
            "fixed_input_size": True,
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop,
            "crop_mode": "center",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": len(pretrained.classes),
            "pool_size": [side // stride for side in size],
            "first_conv": "stem.conv1.conv",
            "classifier": "head.fc",
            "license": licence,
        },
    }


def timm_image_size(pretrained: Pretrained) -> tuple[int, int]:
    """(height, width) to build timm's model for: whole strides.

    timm rounds a grid's size down when it builds the tables, and up when it computes.
    """
    stride = pretrained.model.config.total_stride
    height, width = (-(-side // stride) * stride for side in pretrained.preprocessing.size)
    return height, width


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
