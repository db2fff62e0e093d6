"""Convolutions with batch norm, and the pools around them, all padded k // 2 as in ResNets."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.batch_norm import BatchNorm
from bottleneck_transformer_flax.layers.conv_algorithms import Algorithm, choose_algorithm
from bottleneck_transformer_flax.layers.remat import KEPT

Activation = Callable[[Array], Array]
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class ConvolutionNorm(nn.Module):
    """Convolution without bias → batch norm → activation; folded, convolution → activation.

    A k×k kernel pads k // 2 on every side whatever the stride. ("SAME" would pad (0, 1) at
    stride 2, one pixel off from every published ResNet.)

    Attributes:
        features: output channels.
        kernel_size: k.
        stride: in both directions; the output has ceil(size / stride) positions.
        groups: the channels are convolved in this many parts, each by itself.
        activation: applied last; None for none.
        zero_scale: whether the norm's scale starts at zero, so that a residual branch starts as
            nothing.
        folded: whether the convolution has taken in the norm, and a bias with it.
        frozen_statistics: whether the running statistics normalise in training too, and stay.
        bn_momentum: share of the running statistics that each batch leaves in place.
        bn_epsilon: added to the variance.
        bn_groups: parts of a training batch with statistics of their own.
        dtype: of the computation; statistics are float32 always.
        algorithm: how the convolution is computed; see ``choose_algorithm``.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    activation: Activation | None = None
    zero_scale: bool = False
    folded: bool = False
    frozen_statistics: bool = False
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_groups: int = 1
    dtype: Any = jnp.float32
    algorithm: Algorithm = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b out_h out_w features"]:
        """Convolve; in training the batch's own statistics normalise and update the running."""
        padding = self.kernel_size // 2
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=self.stride,
            padding=[(padding, padding)] * 2,
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
        x = checkpoint_name(x, KEPT)
        if not self.folded:
            x = BatchNorm(
                momentum=self.bn_momentum,
                epsilon=self.bn_epsilon,
                groups=self.bn_groups,
                dtype=self.dtype,
                scale_init=nn.initializers.zeros if self.zero_scale else nn.initializers.ones,
                name="norm",
            )(x, use_running_average=self.frozen_statistics or not train)
        return x if self.activation is None else self.activation(x)


def stem_max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b out_h out_w c"]:
    """3×3 max-pool of stride 2, padded by 1 with −inf on every side.

    As maxima along the rows and then along the columns, whose gradient takes XLA on CPU a quarter
    of the time and memory of a window's. Of values that tie the first has the whole gradient, as in
    PyTorch.
    """
    for axis in (2, 1):
        out = (x.shape[axis] + 1) // 2
        padding = [(1, 1) if axis == other else (0, 0) for other in range(4)]
        padded = jnp.pad(x, padding, constant_values=-jnp.inf)
        first, second, third = (
            jax.lax.slice_in_dim(padded, start, start + 2 * out - 1, stride=2, axis=axis)
            for start in range(3)
        )
        x = _first_largest(_first_largest(first, second), third)
    return x


def _first_largest(first: Array, second: Array) -> Array:
    """The maximum, NaN where either is; ``jnp.maximum`` would split the gradient of a tie."""
    return jnp.where((first >= second) | jnp.isnan(first), first, second)


def average_pool(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b out_h out_w c"]:
    """stride×stride average pool; at an odd border the mean is over the positions that exist."""
    window = (stride, stride)
    pooled = nn.avg_pool(
        x, window_shape=window, strides=window, padding="SAME", count_include_pad=False
    )
    # Dividing by the counts, which are float32, would leave a bfloat16 model in float32.
    return pooled.astype(x.dtype)
