"""The same architectures from timm's parts, in PyTorch."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bottleneck_transformer_flax.conversion.convert import PROJECTS
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
from timm.layers.norm_act import BatchNormAct2d
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, register_block

_ACTIVATIONS = {"relu": torch.nn.ReLU, "silu": torch.nn.SiLU, "gelu": torch.nn.GELU}


class ActivatedShortcut(torch.nn.Module):
    """timm's attention blocks don't activate their shortcut; the paper's authors do."""

    def __init__(self, shortcut: torch.nn.Module, activation: torch.nn.Module) -> None:
        super().__init__()
        self.inner = shortcut
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.activation(self.inner(x))
        return activated


class Patches(torch.nn.Module):
    """A convolution of 2×2 pixels with stride 2, over zeros where a side is odd."""

    def __init__(self, in_chs: int, out_chs: int, layers: Any, **_: Any) -> None:
        super().__init__()
        self.inner = layers.conv_norm_act(in_chs, out_chs, 2, stride=2, padding=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        convolved: torch.Tensor = self.inner(
            torch.nn.functional.pad(x, (0, width % 2, 0, height % 2))
        )
        return convolved


register_block("patches", Patches)  # type: ignore[arg-type]


def randomize(network: torch.nn.Module, seed: int) -> None:
    """Random parameters and batch statistics, of a scale that keeps activations near one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor, mean: float, std: float) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator) * std + mean

    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(normal(tensor, 0, 0.3).exp())
            elif name.endswith("running_mean") or name.endswith("bias"):
                tensor.copy_(normal(tensor, 0, 0.2))
            elif tensor.ndim == 1:
                tensor.copy_(normal(tensor, 0.8, 0.2))
            elif tensor.ndim >= 2:
                fan_in = tensor[0].numel() if tensor.ndim == 4 else tensor.shape[-1]
                tensor.copy_(normal(tensor, 0, fan_in**-0.5))


def timm_model(name: str, **options: Any) -> Any:
    """One of the networks that timm has a name for, untrained, in inference."""
    return timm.create_model(name, **options).eval()


def timm_network(config: BoTNetConfig, image_size: tuple[int, int]) -> ByobNet:
    """The network of one of the paper's or of timm's configs, untrained, in inference."""
    variant = find_variant(config)
    if variant is not None and variant.name in PROJECTS["timm"].variants:
        return timm_model(variant.name, num_classes=config.num_classes, img_size=image_size)
    return _paper_network(config, image_size).eval()


def load_network(
    config: BoTNetConfig, image_size: tuple[int, int], arrays: Mapping[str, np.ndarray]
) -> ByobNet:
    """``timm_network`` with weights under the names of timm's checkpoints."""
    network = timm_network(config, image_size)
    state = network.state_dict()
    names = {name.replace(".inner.", "."): name for name in state if "num_batches" not in name}
    assert names.keys() == arrays.keys()
    network.load_state_dict(
        state | {names[name]: torch.from_numpy(array) for name, array in arrays.items()}
    )
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
    """The paper's networks and our own, which timm does not name but has the parts of."""
    # timm plans its attention grid for stems that halve the image, and rounds sizes down.
    step = config.total_stride * (2 // math.prod(config.stem_strides))
    height, width = (step * math.ceil(side / config.total_stride) for side in image_size)
    stages = [stage for stage in range(4) if config.stage_sizes[stage]]
    kinds = [config.block_kinds(stage)[0] for stage in stages]
    types = {"C": "bottle", "A": "self_attn", "B": "basic"}
    activation = _ACTIVATIONS[config.activation]
    excite = {"rd_ratio": config.se_ratio, "rd_divisor": 1, "act_layer": activation}
    blocks = []
    for stage, kind in zip(stages, kinds, strict=True):
        channels, patches = config.out_channels(stage), config.has_patches(stage)
        block = ByoBlockCfg(
            type=types[kind],
            d=config.stage_sizes[stage],
            c=channels,
            s=1 if patches else config.stage_strides[stage],
            gs=0,
            br=config.inner_channels(stage) / channels,
            block_kwargs={"attn_last": True} if kind == "C" else {},
        )
        before = (ByoBlockCfg(type="patches", d=1, c=channels, s=2),) * patches
        blocks.append((*before, block))
    network = ByobNet(
        ByoModelCfg(
            blocks=tuple(blocks),
            stem_chs=config.initial_filters,
            stem_type=config.stem,
            stem_pool="maxpool" if config.stem_pool else "",
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
        img_size=(height, width),
    )
    if not config.stem_pool:
        network.stem = torch.nn.Sequential(OrderedDict(conv1=network.stem))
    stem: Any = network.stem
    stem.conv1.conv.stride = config.stem_strides * 2
    for stage, kind in zip(network.stages, kinds, strict=True):
        if kind != "A":
            continue
        if config.attention_shortcut_activation and stage[0].shortcut is not None:
            stage[0].shortcut = ActivatedShortcut(stage[0].shortcut, activation())
        for block in stage:
            _replace_heads(block, config)
    return network


def _replace_heads(block: Any, config: BoTNetConfig) -> None:
    """Give an attention block heads of the config's size, which timm derives from its channels."""
    attention, inner_channels = block.self_attn, block.self_attn.dim_out_v
    channels = config.num_heads * config.head_sizes(inner_channels)[1]
    if channels == inner_channels:
        return
    block.self_attn = BottleneckAttn(
        inner_channels,
        channels,
        feat_size=(attention.pos_embed.height, attention.pos_embed.width),
        stride=1 if isinstance(attention.pool, torch.nn.Identity) else 2,
        num_heads=config.num_heads,
        dim_head=config.head_dim,
        scale_pos_embed=config.scaled_positions,
    )
    block.post_attn = BatchNormAct2d(channels, act_layer=_ACTIVATIONS[config.activation])
    block.conv3_1x1.conv = torch.nn.Conv2d(
        channels, block.conv3_1x1.conv.out_channels, 1, bias=False
    )


def timm_data() -> Any:
    """timm's module for reading images."""
    return timm.data
