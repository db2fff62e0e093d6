"""Batch norm that reads its input twice in the forward pass and twice in the backward pass."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.sharding import replicated


class BatchNorm(nn.Module):
    """``(x − mean) / √(variance + epsilon) · scale + bias`` for every channel.

    Variables, statistics and their update are those of ``flax.linen.BatchNorm``. It is computed as
    ``(x − center) · factor + offset``, whose backward pass needs two sums over the positions
    instead of four. Each image's positions are summed first, which is faster in XLA on CPU.

    Attributes:
        momentum: fraction of the running statistics that remains after each batch.
        epsilon: constant added to the variance.
        groups: equal parts of a training batch, each normalised by its own statistics; the running
            statistics follow the mean of theirs.
        scale_init: initialiser of the scale; the bias starts at zero.
        dtype: dtype of the output; statistics and intermediate values are float32.
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
        """Normalise by the running statistics, or by the batch's, which update the running ones."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        if use_running_average:
            mean, variance = running_mean.value[None], running_variance.value[None]
        else:
            mean, mean_of_squares = _means(x, self.groups), _means(x * x, self.groups)
            # Rounding can make the difference negative.
            variance = jnp.maximum(0.0, mean_of_squares - mean * mean)
            if not self.is_initializing():
                for running, of_batch in ((running_mean, mean), (running_variance, variance)):
                    remaining = self.momentum * running.value
                    running.value = remaining + (1 - self.momentum) * of_batch.mean(0)
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale[None]
        # Centring first avoids cancellation; the gradient of the mean flows through the offset.
        center = jax.lax.stop_gradient(mean)
        offset = bias[None] - (mean - center) * factor
        images = 1 if use_running_average else x.shape[0]
        center, factor, offset = (_for_images(value, images) for value in (center, factor, offset))
        return ((x - center) * factor + offset).astype(self.dtype)


@replicated
def _means(x: Float[Array, "b h w c"], groups: int) -> Float[Array, "groups c"]:
    image_means = x.mean((1, 2))
    return image_means.reshape(groups, -1, x.shape[-1]).mean(1)


def _for_images(value: Float[Array, "groups c"], images: int) -> Float[Array, "b 1 1 c"]:
    """The value of each image's group."""
    groups, channels = value.shape
    shape = (groups, images // groups, channels)
    return jnp.broadcast_to(value[:, None], shape).reshape(images, 1, 1, channels)
