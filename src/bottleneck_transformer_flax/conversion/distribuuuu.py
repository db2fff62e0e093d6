"""BIGBALLON/distribuuuu's botnet50, which is the paper's BoT-S1-50, as a chain of numbered parts.

Source: ``distribuuuu/models/botnet.py``: 0 and 1 are the stem, 4 to 6 the ResNet's first three
stages under torchvision's names, 7 the attention blocks, 10 the classifier.
"""

from collections.abc import Iterator

from bottleneck_transformer_flax.conversion.mapping import (
    LINEAR,
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
    """Every array of their botnet50, in order."""
    yield from convolution_norm("stem.layer_1", "0", "1")
    for stage, name in enumerate(STAGE_NAMES):
        for index, kind in enumerate(config.block_kinds(stage)):
            flax_block = f"{name}.block_{index + 1}"
            attends = kind == "A"
            torch_block = f"7.net.{index}" if attends else f"{4 + stage}.{index}"
            if index == 0 and config.has_shortcut(stage):
                shortcut = f"{torch_block}.{'shortcut' if attends else 'downsample'}"
                yield from convolution_norm(
                    f"{flax_block}.shortcut", f"{shortcut}.0", f"{shortcut}.1"
                )
            if attends:
                head_sizes = config.head_sizes(config.inner_channels(stage))
                yield from _attention_block(flax_block, torch_block, *head_sizes)
            else:
                yield from _convolution_block(flax_block, torch_block)
    yield from dense("head", "10", LINEAR)


def _convolution_block(flax_block: str, torch_block: str) -> Iterator[MappedArray]:
    for number, layer in enumerate(("reduce", "spatial", "expand"), start=1):
        yield from convolution_norm(
            f"{flax_block}.{layer}", f"{torch_block}.conv{number}", f"{torch_block}.bn{number}"
        )


def _attention_block(
    flax_block: str, torch_block: str, query_key: int, value: int
) -> Iterator[MappedArray]:
    torch_block += ".net"
    yield from convolution_norm(f"{flax_block}.reduce", f"{torch_block}.0", f"{torch_block}.1")
    attention = f"params.{flax_block}.attention"
    query_and_key = (f"{attention}.query.kernel", f"{attention}.key.kernel")
    layout = projections(query_key, query_key)
    yield MappedArray(f"{torch_block}.3.to_qk.weight", query_and_key, layout)
    yield MappedArray(
        f"{torch_block}.3.to_v.weight", (f"{attention}.value.kernel",), projections(value)
    )
    for axis in ("height", "width"):
        table = f"{torch_block}.3.pos_emb.rel_{axis}"
        yield MappedArray(table, (f"{attention}.relative_{axis}",), SAME)
    yield from batch_norm(f"{flax_block}.attention_norm", f"{torch_block}.5")
    yield from convolution_norm(f"{flax_block}.expand", f"{torch_block}.7", f"{torch_block}.8")


DISTRIBUUUU = Project(
    name="distribuuuu",
    variants=("botnet_s1_50",),
    mapping=mapping,
    head_bias="10.bias",
    crop=0.875,
)
