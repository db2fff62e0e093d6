"""Residual blocks: the basic one, and two bottlenecks, with a convolution or self-attention."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.attention import AttentionMaps, RelativeSelfAttention
from bottleneck_transformer_flax.layers.batch_norm import BatchNorm
from bottleneck_transformer_flax.layers.channel_attention import (
    EfficientChannelAttention,
    SqueezeExcite,
    channel_means,
)
from bottleneck_transformer_flax.layers.convolution import (
    Activation,
    ConvolutionNorm,
    average_pool,
)
from bottleneck_transformer_flax.layers.dropout import Dropout
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.execution import Execution

# Looked up in flax when they are called, for an exporter may put its own in their place.
ACTIVATIONS: dict[str, Activation] = {
    "relu": lambda x: nn.relu(x),
    "silu": lambda x: nn.silu(x),
    "gelu": lambda x: nn.gelu(x, approximate=False),
}


def configured_convolution(
    config: BoTNetConfig, execution: Execution
) -> Callable[..., ConvolutionNorm]:
    """``ConvolutionNorm`` with the settings that all of a model's convolutions share."""
    return partial(
        ConvolutionNorm,
        folded=config.folded_batch_norm,
        frozen_statistics=execution.frozen_batch_stats,
        norm=configured_norm(config, execution),
        dtype=config.dtype,
        algorithm=execution.convolution_algorithm,
    )


def configured_norm(config: BoTNetConfig, execution: Execution) -> Callable[..., BatchNorm]:
    """``BatchNorm`` with the settings that all of a model's norms share."""
    return partial(
        BatchNorm,
        momentum=config.bn_momentum,
        epsilon=config.bn_epsilon,
        groups=execution.batch_norm_groups,
    )


class ResidualBlock(nn.Module):
    """``activation(shortcut(x) + residual_branch(x))``, for subclasses with a residual branch.

    Attributes:
        filters: channels within the residual branch.
        stride: factor by which the block reduces height and width.
        drop_rate: probability, per image, of dropping the residual branch in training.
    """

    config: BoTNetConfig
    execution: Execution
    in_channels: int
    filters: int
    out_channels: int
    stride: int
    drop_rate: float

    def setup(self) -> None:
        """Create the parts that all kinds of block share."""
        self.activation = ACTIVATIONS[self.config.activation]
        self.stochastic_depth = Dropout(self.drop_rate, broadcast_dims=(1, 2, 3))
        if self.stride != 1 or self.in_channels != self.out_channels:
            self.shortcut: Callable[..., Array] | None = self.convolution(
                self.out_channels, stride=self.stride, activation=self.shortcut_activation()
            )
        else:
            self.shortcut = None

    @property
    def convolution(self) -> Callable[..., ConvolutionNorm]:
        """``ConvolutionNorm`` with the model's settings."""
        return configured_convolution(self.config, self.execution)

    @nn.nowrap
    def shortcut_activation(self) -> Activation | None:
        """Activation after the projection shortcut."""
        return None

    def residual_branch(self, x: Array, *, train: bool) -> Array:
        """What the block adds to its shortcut."""
        raise NotImplementedError

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Array:
        """Apply the block."""
        residual = self.residual_branch(x, train=train)
        residual = self.stochastic_depth(residual, deterministic=not train)
        shortcut = x if self.shortcut is None else self.shortcut(x, train=train)
        return self.activation(shortcut + residual)


class BasicBlock(ResidualBlock):
    """The basic block of ResNet-18 and -34: two 3×3 convolutions, the first with the stride."""

    def setup(self) -> None:
        """Add the two convolutions."""
        super().setup()
        self.spatial_1 = self.convolution(
            self.filters, kernel_size=3, stride=self.stride, activation=self.activation
        )
        self.spatial_2 = self.convolution(
            self.out_channels, kernel_size=3, zero_scale=self.config.zero_residual_init
        )

    def residual_branch(self, x: Array, *, train: bool) -> Array:
        """Convolve twice."""
        return self.spatial_2(self.spatial_1(x, train=train), train=train)


class Bottleneck(ResidualBlock):
    """A residual branch that mixes positions between a 1×1 ``reduce`` and a 1×1 ``expand``."""

    def setup(self) -> None:
        """Add the parts that both kinds of bottleneck share."""
        super().setup()
        self.reduce = self.convolution(self.filters, activation=self.activation)
        self.expand = self.convolution(self.out_channels, zero_scale=self.config.zero_residual_init)

    def spatial_mixing(self, x: Array, *, train: bool) -> Array:
        """Mix positions, between ``reduce`` and ``expand``."""
        raise NotImplementedError

    def excite(self, residual: Array, mixed: Array) -> Array:
        """Scale the residual branch, ``expand(mixed)``, before the sum."""
        return residual

    def residual_branch(self, x: Array, *, train: bool) -> Array:
        """Reduce, mix, expand, scale."""
        mixed = self.spatial_mixing(self.reduce(x, train=train), train=train)
        return self.excite(self.expand(mixed, train=train), mixed)


class ConvolutionBottleneck(Bottleneck):
    """The ResNet bottleneck: a 3×3 convolution with the block's stride, and channel attention."""

    def setup(self) -> None:
        """Add the 3×3 convolution and the channel attention, if any."""
        super().setup()
        config = self.config
        self.spatial = self.convolution(
            self.filters,
            kernel_size=3,
            stride=self.stride,
            groups=self.filters // (config.group_size or self.filters),
            activation=self.activation,
        )
        if config.se_ratio:
            self.squeeze_excite = SqueezeExcite(
                config.se_ratio,
                ACTIVATIONS[config.se_activation or config.activation],
                divisor=config.se_divisor,
                dtype=config.dtype,
            )
        if config.efficient_channel_attention:
            self.efficient_attention = EfficientChannelAttention(dtype=config.dtype)

    def spatial_mixing(self, x: Array, *, train: bool) -> Array:
        """Convolve 3×3, normalise and activate, and scale the channels if that happens here."""
        x = self.spatial(x, train=train)
        if self.config.channel_attention_position == "middle":
            return self._scale_channels(x, channel_means(x))
        return x

    def excite(self, residual: Array, mixed: Array) -> Array:
        """Scale the channels, if that happens after the last norm."""
        if self.config.channel_attention_position != "output":
            return residual
        if self.config.folded_batch_norm:
            # The convolution is linear, so its output for the means is the means of its output.
            means = self.expand(channel_means(mixed), train=False)
        else:
            means = channel_means(residual)
        return self._scale_channels(residual, means)

    def _scale_channels(self, x: Array, means: Array) -> Array:
        if self.config.efficient_channel_attention:
            return self.efficient_attention(x, means)
        return self.squeeze_excite(x, means) if self.config.se_ratio else x


class AttentionBottleneck(Bottleneck):
    """The BoT block, with global self-attention in place of the 3×3 convolution.

    With stride 2 it attends at full resolution, then average-pools, as the authors' code does.
    """

    def setup(self) -> None:
        """Add attention and the norm after it."""
        super().setup()
        config = self.config
        query_key_dim, head_dim = config.head_sizes(self.filters)
        self.attention = RelativeSelfAttention(
            config.num_heads,
            head_dim,
            query_key_dim=query_key_dim,
            scaled_positions=config.scaled_positions,
            value_bias=config.folded_batch_norm,
            dtype=config.dtype,
            backend=self.execution.attention_backend,
        )
        if not config.folded_batch_norm:
            norm = configured_norm(config, self.execution)
            self.attention_norm = norm(dtype=config.dtype)

    @nn.nowrap
    def shortcut_activation(self) -> Activation | None:
        """The model's activation, as in the authors' code; timm's models have none."""
        return self.activation if self.config.attention_shortcut_activation else None

    def spatial_mixing(self, x: Array, *, train: bool) -> Array:
        """Attend, pool where the block strides, normalise, activate."""
        x = self.attention(x)
        if self.stride > 1:
            x = average_pool(x, self.stride)
        if not self.config.folded_batch_norm:
            running = self.execution.frozen_batch_stats or not train
            x = self.attention_norm(x, use_running_average=running)
        return self.activation(x)

    def attention_maps(self, x: Float[Array, "b h w c"]) -> AttentionMaps:
        """What this block attends to, in inference."""
        return self.attention.maps(self.reduce(x, train=False))


BLOCKS: dict[str, type[ResidualBlock]] = {
    "C": ConvolutionBottleneck,
    "A": AttentionBottleneck,
    "B": BasicBlock,
}
"""Kinds of block by the letters of ``block_pattern``."""
