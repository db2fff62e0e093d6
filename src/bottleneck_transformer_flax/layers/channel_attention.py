"""Channel attention: squeeze-and-excite, and efficient channel attention."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.conv_algorithms import xla_convolution
from bottleneck_transformer_flax.layers.convolution import KERNEL_INIT, Activation
from bottleneck_transformer_flax.layers.remat import SAVED


def channel_means(x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 c"]:
    """Mean of every channel over all positions, in float32."""
    return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate computed from the means of all channels.

    ``x · sigmoid(W_expand · activation(W_reduce · mean_hw(x)))``, both with bias (arXiv
    1709.01507).

    Attributes:
        ratio: hidden width as a fraction of the channels.
        activation: activation of the hidden layer.
        divisor: the hidden width is rounded to a multiple of this number, but never to zero.
    """

    ratio: float
    activation: Activation
    divisor: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], means: Float[Array, "b 1 1 c"]
    ) -> Float[Array, "b h w c"]:
        """Gate ``x``, given its ``channel_means``."""
        channels = x.shape[-1]
        hidden = self.divisor * max(1, math.floor(channels * self.ratio / self.divisor + 0.5))
        gate = nn.Dense(hidden, dtype=self.dtype, kernel_init=KERNEL_INIT, name="reduce")(means)
        gate = self.activation(checkpoint_name(gate, SAVED))
        gate = nn.Dense(channels, dtype=self.dtype, kernel_init=KERNEL_INIT, name="expand")(gate)
        gate = checkpoint_name(gate, SAVED)
        return x * nn.sigmoid(gate)


class EfficientChannelAttention(nn.Module):
    """Scale every channel by a gate computed from its own mean and its neighbours'.

    ``x · sigmoid(w ∗ mean_hw(x))`` with one zero-padded kernel w along the channels, whose size is
    odd and about (log₂ c + 1) / 2 (arXiv 1910.03151, equation 12).
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], means: Float[Array, "b 1 1 c"]
    ) -> Float[Array, "b h w c"]:
        """Gate ``x``, given its ``channel_means``."""
        size = int((math.log2(x.shape[-1]) + 1) / 2)
        size = max(size if size % 2 else size + 1, 3)
        gate = nn.Conv(
            1,
            (size,),
            padding=size // 2,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=KERNEL_INIT,
            conv_general_dilated=xla_convolution,
            name="neighbours",
        )(means[:, 0, 0, :, None])
        gate = checkpoint_name(gate, SAVED)
        return x * nn.sigmoid(gate)[:, None, None, :, 0]
