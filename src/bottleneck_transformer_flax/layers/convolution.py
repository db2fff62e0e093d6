"""Convolutions with batch norm, and pools, padded by k // 2 as in published ResNets."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.export import is_symbolic_dim

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.batch_norm import BatchNorm
from bottleneck_transformer_flax.layers.conv_algorithms import choose_algorithm
from bottleneck_transformer_flax.layers.remat import SAVED

Activation = Callable[[Array], Array]
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class ConvolutionNorm(nn.Module):
    """Convolution → batch norm → activation, or convolution with bias → activation if folded.

    An odd k×k kernel pads k // 2 on every side whatever the stride. ("SAME" would pad (0, 1) at
    stride 2, one pixel off from every published ResNet.) An even one pads one pixel less before.

    Attributes:
        kernel_size: kernel height and width, k.
        stride: stride along both axes; the output has ceil(size / stride) positions.
        groups: groups of channels that are convolved separately.
        activation: function applied last; None for none.
        zero_scale: whether the norm's scale starts at zero, and with it a residual branch.
        folded: whether the convolution's kernel and bias hold the batch norm.
        frozen_statistics: whether training normalises by the running statistics and keeps them.
        norm: ``BatchNorm`` with the settings of the model.
        algorithm: see ``choose_algorithm``.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    activation: Activation | None = None
    zero_scale: bool = False
    folded: bool = False
    frozen_statistics: bool = False
    norm: Callable[..., BatchNorm] = BatchNorm
    dtype: Any = jnp.float32
    algorithm: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b out_h out_w features"]:
        """Convolve, normalise and activate; in training by the batch's statistics."""
        padding = ((self.kernel_size - 1) // 2, self.kernel_size // 2)
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=self.stride,
            padding=[padding, padding],
            feature_group_count=self.groups,
            use_bias=self.folded,
            dtype=self.dtype,
            kernel_init=KERNEL_INIT,
            conv_general_dilated=choose_algorithm(
                x.shape,
                kernel_size=self.kernel_size,
                stride=self.stride,
                groups=self.groups,
                dtype=self.dtype,
                algorithm=self.algorithm,
            ),
            name="convolution",
        )(x)
        x = checkpoint_name(x, SAVED)
        if not self.folded:
            scale_init = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
            norm = self.norm(scale_init=scale_init, dtype=self.dtype, name="norm")
            x = norm(x, use_running_average=self.frozen_statistics or not train)
        return x if self.activation is None else self.activation(x)


def stem_max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b out_h out_w c"]:
    """3×3 max-pool of stride 2, padded by 1 with −inf on every side.

    Takes maxima along rows, then along columns: their gradient needs a quarter of the time and
    memory of ``nn.max_pool``'s in XLA on CPU. The first of tied values gets the whole gradient, as
    in PyTorch. Where the batch size is symbolic, it is ``nn.max_pool``, which an exporter
    recognises.
    """
    if is_symbolic_dim(x.shape[0]):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        return nn.max_pool(padded, window_shape=(3, 3), strides=(2, 2))
    for axis in (2, 1):
        out = (x.shape[axis] + 1) // 2
        padding = [(1, 1) if axis == other else (0, 0) for other in range(4)]
        padded = jnp.pad(x, padding, constant_values=-jnp.inf)
        first, second, third = (
            jax.lax.slice_in_dim(padded, start, start + 2 * out - 1, stride=2, axis=axis)
            for start in range(3)
        )
        x = _first_max(_first_max(first, second), third)
    return x


def _first_max(first: Array, second: Array) -> Array:
    """The maximum, or NaN if either is; ``jnp.maximum`` would split the gradient of a tie."""
    return jnp.where((first >= second) | jnp.isnan(first), first, second)


def average_pool(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b out_h out_w c"]:
    """stride×stride average pool; a window across the border averages its positions inside."""
    window = (stride, stride)
    # Flax divides by float32 counts, which turns bfloat16 into float32.
    with jax.numpy_dtype_promotion("standard"):
        pooled = nn.avg_pool(
            x, window_shape=window, strides=window, padding="SAME", count_include_pad=False
        )
    return pooled.astype(x.dtype)
