"""timm's ByobNet: the names and layouts of its checkpoints.

Source: timm 1.0, ``byobnet.py`` and ``byoanet.py``. One fused projection holds q, k and v.
"""

from collections.abc import Iterator

from bottleneck_transformer_flax.conversion.mapping import (
    CONVOLUTION_1D,
    LINEAR,
    POINTWISE,
    SAME,
    Rule,
    batch_norm,
    convolution_norm,
    dense,
    projections,
)
from bottleneck_transformer_flax.models.config import STAGE_NAMES, BoTNetConfig


def rules(config: BoTNetConfig) -> Iterator[Rule]:
    """Every array of the ByobNet that a config describes, in order."""
    for index in range(1, len(config.stem_channels) + 1):
        yield from _convolution(f"stem.layer_{index}", f"stem.conv{index}")
    for stage, name in enumerate(STAGE_NAMES):
        for index, kind in enumerate(config.block_kinds(stage)):
            ours, theirs = f"{name}.block_{index + 1}", f"stages.{stage}.{index}"
            if index == 0 and config.has_shortcut(stage):
                yield from _convolution(f"{ours}.shortcut", f"{theirs}.shortcut")
            yield from _convolution(f"{ours}.reduce", f"{theirs}.conv1_1x1")
            if kind == "A":
                yield from _attention(
                    ours, theirs, *config.head_sizes(config.inner_channels(stage))
                )
            else:
                yield from _convolution(f"{ours}.spatial", f"{theirs}.conv2_kxk")
                yield from _channel_attention(config, ours, theirs)
            yield from _convolution(f"{ours}.expand", f"{theirs}.conv3_1x1")
    if config.final_channels:
        yield from _convolution("final", "final_conv")
    yield from dense("head", "head.fc", LINEAR)


def _convolution(ours: str, theirs: str) -> Iterator[Rule]:
    return convolution_norm(ours, f"{theirs}.conv", f"{theirs}.bn")


def _attention(ours: str, theirs: str, query_key: int, value: int) -> Iterator[Rule]:
    names = tuple(f"params.{ours}.attention.{name}.kernel" for name in ("query", "key", "value"))
    layout = projections(query_key, query_key, value)
    yield Rule(f"{theirs}.self_attn.qkv.weight", names, layout)
    for axis in ("height", "width"):
        table = f"params.{ours}.attention.relative_{axis}"
        yield Rule(f"{theirs}.self_attn.pos_embed.{axis}_rel", (table,), SAME)
    yield from batch_norm(f"{ours}.attention_norm", f"{theirs}.post_attn")


def _channel_attention(config: BoTNetConfig, ours: str, theirs: str) -> Iterator[Rule]:
    position = {"middle": "attn", "output": "attn_last"}[config.channel_attention_position]
    if config.se_ratio:
        for layer, fc in (("reduce", "fc1"), ("expand", "fc2")):
            name = f"{ours}.squeeze_excite.{layer}"
            yield from dense(name, f"{theirs}.{position}.{fc}", POINTWISE)
    if config.efficient_channel_attention:
        kernel = f"params.{ours}.efficient_attention.neighbours.kernel"
        yield Rule(f"{theirs}.{position}.conv.weight", (kernel,), CONVOLUTION_1D)
