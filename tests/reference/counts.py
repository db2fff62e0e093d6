"""Parameters and multiply-adds of a bottleneck network, by arithmetic on its description."""

import math
from typing import NamedTuple


class Cost(NamedTuple):
    parameters: int
    norm_parameters: int
    multiply_adds: int

    def __add__(self, other):
        return Cost(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def convolution_norm(in_channels, out_channels, size, height, width):
    weights = size * size * in_channels * out_channels
    return Cost(weights + 2 * out_channels, 2 * out_channels, weights * height * width)


def dense(inputs, outputs):
    return Cost(inputs * outputs + outputs, 0, inputs * outputs)


def attention(channels, config, height, width):
    """Projections, both tables, the content, position and value products, and the norm after."""
    features = config.num_heads * config.head_dim
    projections = 3 * channels * features
    tables = (2 * height - 1 + 2 * width - 1) * config.head_dim
    positions = height * width
    products = positions * features * (2 * positions + height + width)
    return Cost(
        projections + tables + 2 * features, 2 * features, projections * positions + products
    )


def bottleneck(config, kind, in_channels, filters, stride, height, width):
    out_channels = filters * config.projection_factor
    out_height, out_width = math.ceil(height / stride), math.ceil(width / stride)
    cost = convolution_norm(in_channels, filters, 1, height, width)
    if kind == "A":
        middle = config.num_heads * config.head_dim
        cost += attention(filters, config, height, width)
    else:
        middle = filters
        cost += convolution_norm(filters, filters, 3, out_height, out_width)
    cost += convolution_norm(middle, out_channels, 1, out_height, out_width)
    if kind == "C" and config.se_ratio:
        hidden = round(out_channels * config.se_ratio)
        cost += dense(out_channels, hidden) + dense(hidden, out_channels)
    if stride != 1 or in_channels != out_channels:
        cost += convolution_norm(in_channels, out_channels, 1, out_height, out_width)
    return cost, out_channels, out_height, out_width


def network(config, height, width):
    size, stride = {"7x7": (7, 2), "3x3": (3, 1)}[config.stem]
    height, width = math.ceil(height / stride), math.ceil(width / stride)
    channels = config.initial_filters
    cost = convolution_norm(config.image_channels, channels, size, height, width)
    if config.stem_pool:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    strides = (1, 2, 2, 1 if config.stride_one else 2)
    for stage, blocks in enumerate(config.stage_sizes):
        pattern = config.block_pattern[stage]
        for index in range(blocks):
            more, channels, height, width = bottleneck(
                config,
                pattern[index % len(pattern)],
                channels,
                config.initial_filters * 2**stage,
                strides[stage] if index == 0 else 1,
                height,
                width,
            )
            cost += more
    return cost + dense(channels, config.num_classes)
