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
        groups: parts of a training batch, each normalised by statistics of its own; the running
            statistics move to the mean of theirs.
        scale_init: of the scale; the bias starts at zero.
        dtype: of the result; statistics and what is between are float32 always.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1
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
            mean, mean_of_squares = _means(x, self.groups), _means(x * x, self.groups)
            # Rounding can leave less than nothing.
            variance = jnp.maximum(0.0, mean_of_squares - mean * mean)
            if not self.is_initializing():
                for running, of_batch in ((running_mean, mean), (running_variance, variance)):
                    kept = self.momentum * running.value
                    running.value = kept + (1 - self.momentum) * of_batch.mean(0)
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        # Near the mean nothing cancels; the mean's own gradient is that of the offset.
        center = jax.lax.stop_gradient(mean)
        offset = bias - (mean - center) * factor
        if not use_running_average:
            center, factor, offset = (
                _of_each(value, x.shape[0]) for value in (center, factor, offset)
            )
        return ((x - center) * factor + offset).astype(self.dtype)


def _means(x: Float[Array, "b h w c"], groups: int) -> Float[Array, "groups c"]:
    of_images = x.mean((1, 2))
    return of_images.reshape(groups, -1, x.shape[-1]).mean(1)


def _of_each(value: Float[Array, "groups c"], images: int) -> Float[Array, "b 1 1 c"]:
    """The value of each image's group."""
    groups, channels = value.shape
    shape = (groups, images // groups, channels)
    return jnp.broadcast_to(value[:, None], shape).reshape(images, 1, 1, channels)
