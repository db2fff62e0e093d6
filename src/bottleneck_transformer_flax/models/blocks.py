"""The residual bottleneck blocks: one that convolves, one that attends."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.layers.channel_attention import SqueezeExcite
from bottleneck_transformer_flax.layers.convolution import (
    Activation,
    ConvolutionNorm,
    average_pool,
)
from bottleneck_transformer_flax.models.config import BoTNetConfig

ACTIVATIONS: dict[str, Activation] = {
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": partial(nn.gelu, approximate=False),
}


def configured_convolution(config: BoTNetConfig) -> Callable[..., ConvolutionNorm]:
    """``ConvolutionNorm`` with the batch-norm settings and dtype of a model."""
    return partial(
        ConvolutionNorm,
        bn_momentum=config.bn_momentum,
        bn_epsilon=config.bn_epsilon,
        dtype=config.dtype,
    )


class Bottleneck(nn.Module):
    """A residual block: 1×1 down → something spatial → 1×1 up, added to a shortcut, activated.

    Attributes:
        config: of the model.
        in_channels: channels of the input.
        filters: inner channels; ``filters · config.projection_factor`` come out.
        stride: by how much the block reduces the resolution.
        drop_rate: chance that the residual branch is dropped, for each image, in training.
    """

    config: BoTNetConfig
    in_channels: int
    filters: int
    stride: int
    drop_rate: float

    def setup(self) -> None:
        """The parts that both kinds of block have."""
        out_channels = self.filters * self.config.projection_factor
        self.activation = ACTIVATIONS[self.config.activation]
        self.reduce = self.convolution(self.filters, activation=self.activation)
        self.expand = self.convolution(out_channels, zero_scale=self.config.zero_residual_init)
        self.stochastic_depth = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3))
        if self.stride != 1 or self.in_channels != out_channels:
            self.shortcut: Callable[..., Array] | None = self.convolution(
                out_channels, stride=self.stride, activation=self.shortcut_activation()
            )
        else:
            self.shortcut = None

    @property
    def convolution(self) -> Callable[..., ConvolutionNorm]:
        """``ConvolutionNorm`` with the model's settings."""
        return configured_convolution(self.config)

    def shortcut_activation(self) -> Activation | None:
        """What follows the projection shortcut."""
        return None

    def spatial_mixing(self, x: Array, *, train: bool) -> Array:
        """From the reduced input to what the last 1×1 reads."""
        raise NotImplementedError

    def excite(self, residual: Array) -> Array:
        """What happens to the residual branch before it is added."""
        return residual

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Array:
        """``activation(shortcut(x) + residual(x))``."""
        residual = self.spatial_mixing(self.reduce(x, train=train), train=train)
        residual = self.excite(self.expand(residual, train=train))
        residual = self.stochastic_depth(residual, deterministic=not train)
        shortcut = x if self.shortcut is None else self.shortcut(x, train=train)
        return self.activation(shortcut + residual)


class ConvolutionBottleneck(Bottleneck):
    """The ResNet bottleneck: a 3×3 convolution holds the stride; squeeze-and-excite at the end."""

    def setup(self) -> None:
        """A 3×3 convolution and, where the model has it, squeeze-and-excite."""
        super().setup()
        self.spatial = self.convolution(
            self.filters, kernel_size=3, stride=self.stride, activation=self.activation
        )
        if self.config.se_ratio:
            self.squeeze_excite = SqueezeExcite(
                self.config.se_ratio, self.activation, dtype=self.config.dtype
            )

    def spatial_mixing(self, x: Array, *, train: bool) -> Array:
        """The 3×3 convolution, normalised and activated."""
        return self.spatial(x, train=train)

    def excite(self, residual: Array) -> Array:
        """Squeeze-and-excite after the last norm, before the sum."""
        return self.squeeze_excite(residual) if self.config.se_ratio else residual


class AttentionBottleneck(Bottleneck):
    """The BoT block: global self-attention in place of the 3×3 convolution.

    A stride of 2 attends at full resolution, then average-pools, as the authors' code does.
    """

    def setup(self) -> None:
        """Attention and the norm after it."""
        super().setup()
        self.attention = RelativeSelfAttention(
            self.config.num_heads, self.config.head_dim, dtype=self.config.dtype
        )
        self.attention_norm = nn.BatchNorm(
            momentum=self.config.bn_momentum,
            epsilon=self.config.bn_epsilon,
            dtype=self.config.dtype,
        )

    def shortcut_activation(self) -> Activation | None:
        """The model's activation, as in the authors' code; timm's models have none."""
        return self.activation if self.config.attention_shortcut_activation else None

    def spatial_mixing(self, x: Array, *, train: bool) -> Array:
        """Attend, pool where the block strides, normalise, activate."""
        x = self.attention(x)
        if self.stride > 1:
            x = average_pool(x, self.stride)
        return self.activation(self.attention_norm(x, use_running_average=not train))

    def attention_weights(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n q k"]:
        """The weights with which this block attends, in inference."""
        return self.attention.weights(self.reduce(x, train=False))
