"""BIGBALLON/distribuuuu's botnet50, which is the paper's BoT-S1-50, a chain of numbered parts.

Source: ``distribuuuu/models/botnet.py``: 0 and 1 the stem, 4 to 6 the ResNet's first three stages
under torchvision's names, 7 the attention blocks, 10 the classifier.
"""

from collections.abc import Iterator

from bottleneck_transformer_flax.conversion.mapping import (
    LINEAR,
    SAME,
    Rule,
    batch_norm,
    convolution_norm,
    dense,
    projections,
)
from bottleneck_transformer_flax.models.config import STAGE_NAMES, BoTNetConfig


def rules(config: BoTNetConfig) -> Iterator[Rule]:
    """Every array of their botnet50, in order."""
    yield from convolution_norm("stem.layer_1", "0", "1")
    for stage, name in enumerate(STAGE_NAMES):
        for index, kind in enumerate(config.block_kinds(stage)):
            ours = f"{name}.block_{index + 1}"
            projected = index == 0 and config.has_shortcut(stage)
            if kind == "A":
                sizes = config.head_sizes(config.inner_channels(stage))
                yield from _attention_block(ours, f"7.net.{index}", *sizes, projected=projected)
            else:
                theirs = f"{4 + stage}.{index}"
                yield from _convolution_block(ours, theirs, projected=projected)
    yield from dense("head", "10", LINEAR)


def _convolution_block(ours: str, theirs: str, *, projected: bool) -> Iterator[Rule]:
    for number, layer in enumerate(("reduce", "spatial", "expand"), start=1):
        yield from convolution_norm(
            f"{ours}.{layer}", f"{theirs}.conv{number}", f"{theirs}.bn{number}"
        )
    if projected:
        yield from convolution_norm(
            f"{ours}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1"
        )


def _attention_block(
    ours: str, theirs: str, query_key: int, value: int, *, projected: bool
) -> Iterator[Rule]:
    if projected:
        yield from convolution_norm(
            f"{ours}.shortcut", f"{theirs}.shortcut.0", f"{theirs}.shortcut.1"
        )
    yield from convolution_norm(f"{ours}.reduce", f"{theirs}.net.0", f"{theirs}.net.1")
    attention = f"params.{ours}.attention"
    names = (f"{attention}.query.kernel", f"{attention}.key.kernel")
    yield Rule(f"{theirs}.net.3.to_qk.weight", names, projections(query_key, query_key))
    yield Rule(f"{theirs}.net.3.to_v.weight", (f"{attention}.value.kernel",), projections(value))
    for axis in ("height", "width"):
        table = f"{theirs}.net.3.pos_emb.rel_{axis}"
        yield Rule(table, (f"{attention}.relative_{axis}",), SAME)
    yield from batch_norm(f"{ours}.attention_norm", f"{theirs}.net.5")
    yield from convolution_norm(f"{ours}.expand", f"{theirs}.net.7", f"{theirs}.net.8")
