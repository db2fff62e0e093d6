"""What an exported model computes: from images to probabilities, or whatever else is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.inference.onnx_model import FEATURES, LOGITS, PROBABILITIES
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import STAGE_NAMES
from bottleneck_transformer_flax.models.surgery import fold_batch_norm


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What an exported model takes and gives.

    Attributes:
        raw: whether it takes normalised float32 images and gives logits. Otherwise it takes RGB
            images of uint8, normalises them itself, and gives probabilities.
        features: whether it also gives the pooled features.
        attention: whether it also gives the attention weights of every BoT block.
    """

    raw: bool = False
    features: bool = False
    attention: bool = False


class ExportedFunction(NamedTuple):
    """A function of a batch of images, with its weights inside.

    Attributes:
        call: from images (b, h, w, 3) to one array for each of ``names``.
        dtype: dtype of the images.
        image_size: (height, width) of the images.
        names: names of the outputs.
    """

    call: Callable[[Array], tuple[Array, ...]]
    dtype: jnp.dtype
    image_size: tuple[int, int]
    names: tuple[str, ...]

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shape of each output for one image, without the batch axis."""
        images = jax.ShapeDtypeStruct((1, *self.image_size, 3), self.dtype)
        return [output.shape[1:] for output in jax.eval_shape(self.call, images)]


def exported_function(pretrained: Pretrained, outputs: Outputs) -> ExportedFunction:
    """The function that an exported model computes, with folded batch norms."""
    preprocessing = pretrained.preprocessing
    model, variables = fold_batch_norm(pretrained.model, pretrained.variables)
    blocks = attention_blocks(model) if outputs.attention else []

    def everything(module: BoTNet, images: Array) -> tuple[Array, ...]:
        found = module.outputs(images)
        first = found.logits
        if not outputs.raw:
            first = nn.softmax(found.logits / preprocessing.temperature)
        features = [found.pooled_features] if outputs.features else []
        return first, *features, *(found.attention_maps[block] for block in blocks)

    def call(images: Array) -> tuple[Array, ...]:
        inputs = images if outputs.raw else preprocessing.normalize(images)
        return cast(tuple[Array, ...], model.apply(variables, inputs, method=everything))

    return ExportedFunction(
        call,
        jnp.dtype(jnp.float32 if outputs.raw else jnp.uint8),
        preprocessing.size,
        (
            LOGITS if outputs.raw else PROBABILITIES,
            *([FEATURES] if outputs.features else []),
            *map(attention_name, blocks),
        ),
    )


def attention_name(block: str) -> str:
    """Name of the output that holds a block's attention weights: "attention_c5_block_1"."""
    return f"attention_{block.replace('/', '_')}"


def attention_blocks(model: BoTNet) -> list[str]:
    """Names of the blocks that attend, such as "c5/block_1", in order."""
    config = model.config
    return [
        f"{name}/block_{index}"
        for stage, name in enumerate(STAGE_NAMES)
        for index, kind in enumerate(config.block_kinds(stage), start=1)
        if kind == "A"
    ]
