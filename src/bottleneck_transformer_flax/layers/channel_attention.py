"""Attention over channels: squeeze-and-excite."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.convolution import KERNEL_INIT, Activation


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate computed from the means of all channels.

    ``x · sigmoid(W_expand · activation(W_reduce · mean_hw(x)))``, both with bias (arXiv
    1709.01507).

    Attributes:
        ratio: hidden width as a fraction of the channels, at least one.
        activation: of the hidden layer.
        dtype: of the computation; the means are taken in float32.
    """

    ratio: float
    activation: Activation
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Gate ``x``."""
        channels = x.shape[-1]
        hidden = max(1, round(channels * self.ratio))
        means = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(self.dtype)
        gate = nn.Dense(hidden, dtype=self.dtype, kernel_init=KERNEL_INIT, name="reduce")(means)
        gate = self.activation(gate)
        gate = nn.Dense(channels, dtype=self.dtype, kernel_init=KERNEL_INIT, name="expand")(gate)
        return x * nn.sigmoid(gate)[:, None, None, :]
