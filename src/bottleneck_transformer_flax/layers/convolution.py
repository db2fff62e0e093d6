"""Convolutions with batch norm, and the pools around them, all padded k // 2 as in ResNets."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.batch_norm import BatchNorm
from bottleneck_transformer_flax.layers.conv_algorithms import halving, winograd
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
            conv_general_dilated=self._way(x, train=train),
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

    def _way(self, x: Array, *, train: bool) -> Callable[..., Array] | None:
        """In place of XLA's convolution, what computes the same faster."""
        if self.kernel_size == self.groups == 1:
            return pointwise
        # What infers with its norms is the plain form, with which the others are compared.
        plain = not (self.folded or train)
        if plain or self.groups > 1 or self.dtype != jnp.float32 or jax.default_backend() != "cpu":
            return None
        if (self.kernel_size, self.stride) == (3, 2):
            return halving if train else None
        # The kernel is transformed at every call, which only many positions outweigh.
        positions = x.size // x.shape[-1]
        many = positions >= x.shape[-1]
        return winograd if (self.kernel_size, self.stride) == (3, 1) and many else None


def pointwise(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "1 1 c f"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **_: Any,
) -> Float[Array, "b out_h out_w f"]:
    """A 1×1 convolution, without padding, as one matrix product.

    XLA on CPU computes a product's gradients two to five times as fast as a convolution's. Takes
    the arguments of ``lax.conv_general_dilated``; those left out are what they are in a ResNet.
    """
    rows, columns = window_strides
    x = x[:, ::rows, ::columns]
    b, h, w, c = x.shape
    return (x.reshape(b * h * w, c) @ kernel[0, 0]).reshape(b, h, w, kernel.shape[-1])


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
    pooled = nn.avg_pool(x, window, strides=window, padding="SAME", count_include_pad=False)
    # Dividing by the counts, which are float32, would leave a bfloat16 model in float32.
    return pooled.astype(x.dtype)
