"""Batch norm whose training takes two passes over its input forward, and two backward."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array, Float


class BatchNorm(nn.Module):
    """``(x − mean) / √(variance + epsilon) · scale + bias`` for every channel.

    Variables, statistics and their update are those of ``flax.linen.BatchNorm``. Computed as
    ``(x − center) · factor + offset``, of which the backward pass needs two sums over the
    positions, not four. Those are over each image's positions first, which takes XLA on CPU less
    time.

    Attributes:
        momentum: share of the running statistics that each batch leaves in place.
        epsilon: added to the variance.
        scale_init: of the scale; the bias starts at zero.
        dtype: of the result; statistics and what is between are float32 always.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, use_running_average: bool
    ) -> Float[Array, "b h w c"]:
        """Normalise by the running statistics, or by the batch's, which move the running ones."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        if use_running_average:
            mean, variance = running_mean.value, running_variance.value
        else:
            mean, mean_of_squares = _mean(x), _mean(x * x)
            # Rounding can leave less than nothing.
            variance = jnp.maximum(0.0, mean_of_squares - mean * mean)
            if not self.is_initializing():
                for running, of_batch in ((running_mean, mean), (running_variance, variance)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * of_batch
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        # Near the mean nothing cancels; the mean's own gradient is that of the offset.
        center = jax.lax.stop_gradient(mean)
        offset = bias - (mean - center) * factor
        each = (x.shape[0], 1, 1, channels)
        factor, offset = jnp.broadcast_to(factor, each), jnp.broadcast_to(offset, each)
        return ((x - center) * factor + offset).astype(self.dtype)


def _mean(x: Float[Array, "b h w c"]) -> Float[Array, " c"]:
    return x.mean((1, 2)).mean(0)
