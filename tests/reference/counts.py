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
    head = config.head_dim or channels // config.num_heads
    query_key = config.query_key_dim or head
    features, compared = config.num_heads * head, config.num_heads * query_key
    projections = channels * (2 * compared + features)
    tables = (2 * height - 1 + 2 * width - 1) * query_key
    positions = height * width
    products = positions * (compared * (positions + height + width) + features * positions)
    return Cost(
        projections + tables + 2 * features, 2 * features, projections * positions + products
    )


def scaled_channels(config, channels):
    if config.efficient_channel_attention:
        size = int((math.log2(channels) + 1) / 2)
        size += 1 - size % 2
        return Cost(max(size, 3), 0, max(size, 3) * channels)
    if not config.se_ratio:
        return Cost(0, 0, 0)
    hidden = math.floor(channels * config.se_ratio / config.se_divisor + 0.5) * config.se_divisor
    hidden = max(hidden, config.se_divisor)
    return dense(channels, hidden) + dense(hidden, channels)


def bottleneck(config, kind, in_channels, filters, factor, stride, height, width):
    out_channels = filters * factor
    out_height, out_width = math.ceil(height / stride), math.ceil(width / stride)
    cost = convolution_norm(in_channels, filters, 1, height, width)
    if kind == "A":
        middle = config.num_heads * config.head_dim if config.head_dim else filters
        cost += attention(filters, config, height, width)
    else:
        middle = filters
        group = config.group_size or filters
        weights = 9 * filters * group
        norm = 2 * filters
        cost += Cost(weights + norm, norm, weights * out_height * out_width)
        in_middle = config.channel_attention_position == "middle"
        cost += scaled_channels(config, filters if in_middle else out_channels)
    cost += convolution_norm(middle, out_channels, 1, out_height, out_width)
    if stride != 1 or in_channels != out_channels:
        cost += convolution_norm(in_channels, out_channels, 1, out_height, out_width)
    return cost, out_channels, out_height, out_width


def network(config, height, width):
    filters = config.initial_filters
    layers = {
        "7x7": [(7, 2, filters)],
        "3x3": [(3, 1, filters)],
        "tiered": [
            (3, 2, filters * 3 // 8),
            (3, 1, filters // 2),
            (3, 1 if config.stem_pool else 2, filters),
        ],
    }[config.stem]
    cost, channels = Cost(0, 0, 0), config.image_channels
    for size, stride, out_channels in layers:
        height, width = math.ceil(height / stride), math.ceil(width / stride)
        cost += convolution_norm(channels, out_channels, size, height, width)
        channels = out_channels
    if config.stem_pool:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    strides = (1, 2, 2, 1 if config.stride_one else 2)
    factor = config.projection_factor
    factors = (factor,) * 4 if isinstance(factor, int) else factor
    for stage, blocks in enumerate(config.stage_sizes):
        pattern = config.block_pattern[stage]
        for index in range(blocks):
            more, channels, height, width = bottleneck(
                config,
                pattern[index % len(pattern)],
                channels,
                config.initial_filters * 2**stage,
                factors[stage],
                strides[stage] if index == 0 else 1,
                height,
                width,
            )
            cost += more
    if config.final_channels:
        cost += convolution_norm(channels, config.final_channels, 1, height, width)
        channels = config.final_channels
    return cost + dense(channels, config.num_classes)
