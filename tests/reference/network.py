"""The blocks and the whole network in inference, from their variables by name, in NumPy.

Follows the paper's facts: a convolution block is 1×1 → 3×3 (stride) → 1×1; a BoT block attends at
full resolution, then pools, and its projection shortcut is activated. A basic block is 3×3 (stride)
→ 3×3 (arXiv 1512.03385).
"""

from typing import NamedTuple

import numpy as np

from reference.attention import self_attention, self_attention_maps
from reference.convolution import (
    ACTIVATIONS,
    average_pool,
    batch_norm,
    convolve,
    dense,
    efficient_channel_attention,
    max_pool,
    squeeze_excite,
)


class Options(NamedTuple):
    activation: str
    shortcut_activation: bool = True
    stem_strides: tuple[int, ...] = (2,)
    stem_pool: bool = True
    strides: tuple[int, int, int, int] = (1, 2, 2, 1)
    scaled_positions: bool = True
    channels_scaled_in_the_middle: bool = False
    squeeze_excite_activation: str | None = None


def convolution_norm(x, params, stats, stride=1):
    x = convolve(x, params["convolution"]["kernel"], stride)
    return batch_norm(x, params["norm"], stats["norm"])


def convolution_block(x, params, stats, stride, options):
    activation = ACTIVATIONS[options.activation]
    y = activation(convolution_norm(x, params["reduce"], stats["reduce"]))
    y = activation(convolution_norm(y, params["spatial"], stats["spatial"], stride))
    if options.channels_scaled_in_the_middle:
        y = scale_channels(y, params, options)
    y = convolution_norm(y, params["expand"], stats["expand"])
    if not options.channels_scaled_in_the_middle:
        y = scale_channels(y, params, options)
    if "shortcut" in params:
        x = convolution_norm(x, params["shortcut"], stats["shortcut"], stride)
    return activation(x + y)


def patches_convolution(x, params, stats, options):
    """Convolve 2×2 pixels with stride 2, over zeros after the last where a side is odd."""
    b, h, w, _ = x.shape
    x = np.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    kernel = params["convolution"]["kernel"]
    y = np.zeros((b, x.shape[1] // 2, x.shape[2] // 2, kernel.shape[-1]), x.dtype)
    for row in range(2):
        for column in range(2):
            y += x[:, row::2, column::2] @ kernel[row, column]
    return ACTIVATIONS[options.activation](batch_norm(y, params["norm"], stats["norm"]))


def basic_block(x, params, stats, stride, options):
    activation = ACTIVATIONS[options.activation]
    y = activation(convolution_norm(x, params["spatial_1"], stats["spatial_1"], stride))
    y = convolution_norm(y, params["spatial_2"], stats["spatial_2"])
    if "shortcut" in params:
        x = convolution_norm(x, params["shortcut"], stats["shortcut"], stride)
    return activation(x + y)


def scale_channels(x, params, options):
    if "squeeze_excite" in params:
        activation = options.squeeze_excite_activation or options.activation
        return squeeze_excite(x, params["squeeze_excite"], activation)
    if "efficient_attention" in params:
        return efficient_channel_attention(x, params["efficient_attention"])
    return x


def attention_block(x, params, stats, stride, options):
    """The output, and the attention maps, each (b, n, h, w, h, w)."""
    activation = ACTIVATIONS[options.activation]
    y = activation(convolution_norm(x, params["reduce"], stats["reduce"]))
    scaled = {"scaled_positions": options.scaled_positions}
    maps = self_attention_maps(y, params["attention"], **scaled)
    y = self_attention(y, params["attention"], **scaled)
    if stride == 2:
        y = average_pool(y)
    y = activation(batch_norm(y, params["attention_norm"], stats["attention_norm"]))
    y = convolution_norm(y, params["expand"], stats["expand"])
    if "shortcut" in params:
        x = convolution_norm(x, params["shortcut"], stats["shortcut"], stride)
        if options.shortcut_activation:
            x = activation(x)
    return activation(x + y), maps


class Outputs(NamedTuple):
    logits: np.ndarray
    pooled_features: np.ndarray
    feature_maps: dict[str, np.ndarray]
    attention_maps: dict[str, np.ndarray]


def network(images, variables, options):
    params, stats = variables["params"], variables["batch_stats"]
    x = images
    for index, stride in enumerate(options.stem_strides, start=1):
        layer = f"layer_{index}"
        x = convolution_norm(x, params["stem"][layer], stats["stem"][layer], stride)
        x = ACTIVATIONS[options.activation](x)
    if options.stem_pool:
        x = max_pool(x)
    feature_maps, attention_maps = {}, {}
    for stage, stage_stride in zip(("c2", "c3", "c4", "c5"), options.strides, strict=True):
        parts = params.get(stage, {})
        if "patches" in parts:
            x = patches_convolution(x, parts["patches"], stats[stage]["patches"], options)
            stage_stride = 1
        for index in range(1, len(parts.keys() - {"patches"}) + 1):
            name = f"block_{index}"
            block = (parts[name], stats[stage][name])
            stride = stage_stride if index == 1 else 1
            if "attention" in block[0]:
                x, maps = attention_block(x, *block, stride, options)
                attention_maps[f"{stage}/{name}"] = maps.weights
                attention_maps[f"{stage}/{name}/content_logits"] = maps.content_logits
                attention_maps[f"{stage}/{name}/position_logits"] = maps.position_logits
            elif "spatial_1" in block[0]:
                x = basic_block(x, *block, stride, options)
            else:
                x = convolution_block(x, *block, stride, options)
        feature_maps[stage] = x
    if "final" in params:
        x = convolution_norm(x, params["final"], stats["final"])
        x = ACTIVATIONS[options.activation](x)
    pooled = x.mean(axis=(1, 2))
    return Outputs(dense(pooled, params["head"]), pooled, feature_maps, attention_maps)
