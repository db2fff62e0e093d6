"""timm's ByobNet: the names and layouts of its checkpoints.

Source: timm 1.0, ``byobnet.py`` and ``byoanet.py``. One fused projection holds q, k and v.
"""

from collections.abc import Iterator

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
from bottleneck_transformer_flax.models.config import STAGE_NAMES, BoTNetConfig


def mapping(config: BoTNetConfig) -> Iterator[MappedArray]:
    """Every array of the ByobNet that a config describes, in order."""
    for index in range(1, len(config.stem_channels) + 1):
        yield from _convolution(f"stem.layer_{index}", f"stem.conv{index}")
    for stage, name in enumerate(STAGE_NAMES):
        for index, kind in enumerate(config.block_kinds(stage)):
            flax_block, torch_block = f"{name}.block_{index + 1}", f"stages.{stage}.{index}"
            if index == 0 and config.has_shortcut(stage):
                yield from _convolution(f"{flax_block}.shortcut", f"{torch_block}.shortcut")
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
