"""The same architectures from timm's parts, in PyTorch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bottleneck_transformer_flax.conversion.convert import PROJECTS
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.variants import find_variant

# timm imports torchvision, whose compiled operators are not in every installation for CPUs. It
# needs none of them, only that their names are defined.
try:
    import torchvision  # noqa: F401
except RuntimeError:
    _operators = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

_ACTIVATIONS = {"relu": torch.nn.ReLU, "silu": torch.nn.SiLU, "gelu": torch.nn.GELU}


class ActivatedShortcut(torch.nn.Module):
    """timm's attention blocks don't activate their shortcut; the paper's authors do."""

    def __init__(self, shortcut: torch.nn.Module, activation: torch.nn.Module) -> None:
        """Around timm's shortcut."""
        super().__init__()
        self.inner = shortcut
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project, then activate."""
        activated: torch.Tensor = self.activation(self.inner(x))
        return activated


def timm_network(config: BoTNetConfig, image_size: tuple[int, int]) -> ByobNet:
    """The network of a config for images of (height, width), untrained, in inference.

    Raises:
        ConfigError: when timm has no parts for it.
    """
    variant = find_variant(config)
    if variant is not None and variant.name in PROJECTS["timm"].variants:
        network: Any = timm.create_model(
            variant.name, num_classes=config.num_classes, img_size=image_size
        )
    else:
        network = _paper_network(config, image_size)
    ready: ByobNet = network.eval()
    return ready


def load_network(
    config: BoTNetConfig, image_size: tuple[int, int], arrays: Mapping[str, np.ndarray]
) -> ByobNet:
    """``timm_network`` with weights under the names of timm's checkpoints."""
    network = timm_network(config, image_size)
    named = {
        name.replace(".inner.", "."): name
        for name in network.state_dict()
        if "num_batches_tracked" not in name
    }
    state = {named[name]: torch.from_numpy(array) for name, array in arrays.items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    wrong = [name for name in missing if "num_batches_tracked" not in name] + unexpected
    if wrong:
        raise ConfigError(f"timm's network and ours differ in {', '.join(wrong)}")
    return network


def named_network(name: str, num_classes: int) -> torch.nn.Module:
    """A network that timm has a name for, untrained."""
    network: torch.nn.Module = timm.create_model(name, num_classes=num_classes)
    return network


def load_attention(
    layer: RelativeSelfAttention, grid: tuple[int, int], arrays: Mapping[str, np.ndarray]
) -> BottleneckAttn:
    """timm's attention layer with the weights of ours."""
    attention = BottleneckAttn(
        arrays["qkv.weight"].shape[1],
        layer.num_heads * layer.head_dim,
        feat_size=grid,
        num_heads=layer.num_heads,
        dim_head=layer.query_key_dim or layer.head_dim,
        scale_pos_embed=layer.scaled_positions,
    )
    attention.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return attention


def _paper_network(config: BoTNetConfig, image_size: tuple[int, int]) -> ByobNet:
    """The paper's networks, which timm does not name but has the parts of."""
    kinds = [set(config.block_kinds(stage)) for stage in range(4)]
    built_alike = config.replace(
        num_classes=1000,
        stem="7x7",
        stem_pool=True,
        channel_attention_position="output",
        efficient_channel_attention=False,
        query_key_dim=None,
        group_size=None,
        final_channels=None,
        se_divisor=1,
    )
    if config.replace(num_classes=1000) != built_alike or any(len(kind) > 1 for kind in kinds):
        raise ConfigError("timm has no parts for this network; it has for the paper's and its own")
    activation = _ACTIVATIONS[config.activation]
    excite = {"rd_ratio": config.se_ratio, "rd_divisor": 1, "act_layer": activation}
    blocks = tuple(
        ByoBlockCfg(
            type="self_attn" if kind == {"A"} else "bottle",
            d=config.stage_sizes[stage],
            c=config.out_channels(stage),
            s=config.stage_strides[stage],
            gs=0,
            br=config.inner_channels(stage) / config.out_channels(stage),
            block_kwargs={} if kind == {"A"} else {"attn_last": True},
        )
        for stage, kind in enumerate(kinds)
    )
    network = ByobNet(
        ByoModelCfg(
            blocks=blocks,
            stem_chs=config.initial_filters,
            stem_type="7x7",
            stem_pool="maxpool",
            act_layer=config.activation,
            attn_layer="se" if config.se_ratio else "",
            attn_kwargs=excite if config.se_ratio else {},
            self_attn_layer="bottleneck",
            self_attn_kwargs={
                "num_heads": config.num_heads,
                "dim_head": config.head_dim,
                "scale_pos_embed": config.scaled_positions,
            },
            fixed_input_size=True,
        ),
        num_classes=config.num_classes,
        img_size=image_size,
    )
    if config.attention_shortcut_activation:
        for stage, kind in zip(network.stages, kinds, strict=True):
            if kind == {"A"} and stage[0].shortcut is not None:
                stage[0].shortcut = ActivatedShortcut(stage[0].shortcut, activation())
    return network


def timm_data() -> Any:
    """timm's module for reading images."""
    return timm.data
