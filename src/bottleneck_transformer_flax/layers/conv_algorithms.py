"""Convolution algorithms for the kernels of a ResNet, and the choice between them.

Each takes the arguments of ``lax.conv_general_dilated`` and ignores those that a ResNet never
varies.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.layers.sharding import sharded_by_batch

_MANY_CHANNELS = 64
"""Channels from which Winograd and im2col are faster than XLA's convolutions by Eigen."""


@cache
def compiler_options() -> dict[str, str]:
    """XLA options for a jitted function that applies a model.

    On a CPU, convolutions are left to Eigen, which takes half the time of the library that XLA
    chooses by default (a fifth for the three channels of an image). Empty on other platforms, and
    where XLA no longer knows the option.
    """
    if jax.default_backend() != "cpu":
        return {}
    kinds = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    options = {"xla_cpu_experimental_ynn_fusion_type": kinds}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def choose_algorithm(
    shape: tuple[Any, ...],
    *,
    kernel_size: int,
    stride: int,
    groups: int,
    dtype: Any,
    algorithm: str,
) -> Callable[..., Array]:
    """The algorithm for a k×k convolution padded by k // 2.

    Where the batch size is symbolic, all are XLA's, which an exporter recognises. Else a 1×1
    convolution is always one matrix product, and all others are XLA's where ``algorithm`` is
    "plain" rather than "auto", and on every platform but a CPU.

    Args:
        shape: (b, h, w, c) of the input.
        algorithm: the ``convolution_algorithm`` of ``Execution``.
    """
    b, h, w, channels = shape
    if is_symbolic_dim(b):
        return xla_convolution
    if kernel_size == groups == 1:
        return pointwise
    if algorithm == "plain" or jax.default_backend() != "cpu":
        return xla_convolution
    if kernel_size == stride and groups == 1:
        return patches
    if kernel_size != 3 or groups != 1 or dtype != jnp.float32 or channels < _MANY_CHANNELS:
        return xla_convolution
    if stride == 2:
        return im2col
    # Only many positions outweigh transforming the kernel at every call.
    return winograd if stride == 1 and b * h * w >= channels else xla_convolution


xla_convolution = sharded_by_batch(jax.lax.conv_general_dilated)
"""XLA's own algorithms."""


@sharded_by_batch
def pointwise(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "1 1 c f"],
    window_strides: Sequence[int],
    *_: Any,
    **__: Any,
) -> Float[Array, "b out_h out_w f"]:
    """Convolve 1×1 by one matrix product.

    XLA on CPU computes its gradients two to five times as fast as a convolution's.
    """
    rows, columns = window_strides
    x = x[:, ::rows, ::columns]
    b, h, w, c = x.shape
    return (x.reshape(b * h * w, c) @ kernel[0, 0]).reshape(b, h, w, kernel.shape[-1])


@sharded_by_batch
def patches(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c f"], *_: Any, **__: Any
) -> Float[Array, "b out_h out_w f"]:
    """Convolve k×k with stride k, so that no windows overlap, by one matrix product."""
    b, h, w, c = x.shape
    k, features = kernel.shape[0], kernel.shape[-1]
    rows, columns = -(-h // k), -(-w // k)
    x = jnp.pad(x, ((0, 0), (0, rows * k - h), (0, columns * k - w), (0, 0)))
    x = x.reshape(b, rows, k, columns, k, c).swapaxes(2, 3).reshape(b * rows * columns, k * k * c)
    return (x @ kernel.reshape(k * k * c, features)).reshape(b, rows, columns, features)


@sharded_by_batch
def winograd(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c f"], *_: Any, **__: Any
) -> Float[Array, "b h w f"]:
    """Convolve 3×3 with stride 1 by Winograd's F(2×2, 3×3), in 2.25 times fewer multiplications.

    ``Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`` for tiles d of 4 × 4 inputs and Y of 2 × 2 outputs (arXiv
    1509.09308, equation 8). Each of the 16 products ⊙ is a matrix product over the channels. In
    float32 the rounding errors are as small as a direct convolution's. It makes T3 with folded
    norms 6 to 9 % faster on a CPU.
    """
    b, h, w, c = x.shape
    rows, columns = -(-h // 2), -(-w // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows + 1 - h), (1, 2 * columns + 1 - w), (0, 0)))
    products = [
        [
            tiles.reshape(b * rows * columns, c) @ weights
            for tiles, weights in zip(
                _transform_input(_strided(row, columns, axis=2)),
                _transform_kernel(kernel_row),
                strict=True,
            )
        ]
        for row, kernel_row in zip(
            _transform_input(_strided(x, rows, axis=1)), _transform_kernel(kernel), strict=True
        )
    ]
    by_column = [_transform_output(row) for row in products]
    by_row = [_transform_output(column) for column in zip(*by_column, strict=True)]
    grid = (b, rows, columns, kernel.shape[-1])
    pairs = [
        jnp.stack([column[row].reshape(grid) for column in by_row], axis=3) for row in range(2)
    ]
    return jnp.stack(pairs, axis=2).reshape(b, 2 * rows, 2 * columns, kernel.shape[-1])[:, :h, :w]


@sharded_by_batch
def im2col(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c f"], *_: Any, **__: Any
) -> Float[Array, "b out_h out_w f"]:
    """Convolve 3×3 with stride 2 by one matrix product over the patches of the input.

    Forward it is as fast as XLA's own, but the gradient of the kernel takes less than half the
    time on a CPU.
    """
    b, h, w, c = x.shape
    rows, columns = -(-h // 2), -(-w // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows + 1 - h), (1, 2 * columns + 1 - w), (0, 0)))
    inputs = [
        part for row in _strided(x, rows, axis=1)[:3] for part in _strided(row, columns, axis=2)[:3]
    ]
    patches = jnp.concatenate(inputs, axis=-1).reshape(b * rows * columns, 9 * c)
    return (patches @ kernel.reshape(9 * c, -1)).reshape(b, rows, columns, kernel.shape[-1])


def _strided(x: Array, count: int, *, axis: int) -> list[Array]:
    """Elements 0 to 3 of every window of four at stride 2, one array for each."""
    return [
        jax.lax.slice_in_dim(x, start, start + 2 * count - 1, stride=2, axis=axis)
        for start in range(4)
    ]


def _transform_input(parts: Sequence[Array]) -> tuple[Array, Array, Array, Array]:
    """Bᵀ d."""
    a, b, c, d = parts
    return a - c, b + c, c - b, b - d


def _transform_kernel(parts: Array | Sequence[Array]) -> tuple[Array, Array, Array, Array]:
    """G g."""
    a, b, c = parts
    return a, (a + b + c) / 2, (a - b + c) / 2, c


def _transform_output(parts: Sequence[Array]) -> tuple[Array, Array]:
    """Aᵀ m."""
    a, b, c, d = parts
    return a + b + c, b - c - d
