"""Algorithms for the convolutions of a ResNet, and the choice between them."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim

from bottleneck_transformer_flax.axes import Array, Float

Algorithm = Literal["auto", "plain"]


def choose_algorithm(
    shape: tuple[Any, ...],
    *,
    kernel_size: int,
    stride: int,
    groups: int,
    dtype: Any,
    algorithm: Algorithm,
) -> Callable[..., Array] | None:
    """The function to compute a padded convolution with; None for ``lax.conv_general_dilated``.

    A 1×1 is one matrix product everywhere. "plain", a symbolic batch size, or another platform than
    a CPU leaves all others to XLA.

    Args:
        shape: (b, h, w, c) of the input; b may be symbolic.
        kernel_size: k of a k×k kernel.
        stride: in both directions.
        groups: groups of channels.
        dtype: of the computation.
        algorithm: "plain", or "auto" for what is fastest.
    """
    if kernel_size == groups == 1:
        return pointwise
    b, h, w, channels = shape
    if algorithm == "plain" or is_symbolic_dim(b) or jax.default_backend() != "cpu":
        return None
    if kernel_size != 3 or groups != 1 or dtype != jnp.float32:
        return None
    if stride == 2:
        return im2col
    # Only many positions outweigh the transform of the kernel at every call.
    return winograd if stride == 1 and b * h * w >= channels else None


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


def winograd(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c f"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **_: Any,
) -> Float[Array, "b h w f"]:
    """A 3×3 convolution of stride 1, padded by 1, by Winograd's F(2×2, 3×3).

    Every tile of 2 × 2 outputs takes 4 × 4 products instead of 36: those of the transformed inputs
    and kernel, ``Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`` (arXiv 1509.09308, equation 8), each of the 16
    one matrix product over the channels. In float32 its rounding errors are those of a direct
    convolution. Takes the arguments of ``lax.conv_general_dilated``; those left out are what they
    are in a ResNet.
    """
    b, h, w, c = x.shape
    rows, columns = -(-h // 2), -(-w // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows + 1 - h), (1, 2 * columns + 1 - w), (0, 0)))
    products = [
        [
            tiles.reshape(b * rows * columns, c) @ weights
            for tiles, weights in zip(
                _of_inputs(_strided(row, columns, axis=2)), _of_kernel(kernel_row), strict=True
            )
        ]
        for row, kernel_row in zip(
            _of_inputs(_strided(x, rows, axis=1)), _of_kernel(kernel), strict=True
        )
    ]
    by_column = [_of_outputs(row) for row in products]
    by_row = [_of_outputs(column) for column in zip(*by_column, strict=True)]
    grid = (b, rows, columns, kernel.shape[-1])
    pairs = [
        jnp.stack([column[row].reshape(grid) for column in by_row], axis=3) for row in range(2)
    ]
    return jnp.stack(pairs, axis=2).reshape(b, 2 * rows, 2 * columns, kernel.shape[-1])[:, :h, :w]


def im2col(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c f"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **_: Any,
) -> Float[Array, "b out_h out_w f"]:
    """A 3×3 convolution of stride 2, padded by 1, as one product of the inputs of every output.

    Forward it takes as long as XLA's own; but the kernel's gradient is a product too, where XLA's
    own first turns the images around and then convolves them. The arguments are as in
    ``winograd``.
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
    """Of the fours of positions that begin at every second one: all firsts, seconds, and so on."""
    return [
        jax.lax.slice_in_dim(x, start, start + 2 * count - 1, stride=2, axis=axis)
        for start in range(4)
    ]


def _of_inputs(parts: Sequence[Array]) -> tuple[Array, Array, Array, Array]:
    """Bᵀ d."""
    a, b, c, d = parts
    return a - c, b + c, c - b, b - d


def _of_kernel(parts: Array | Sequence[Array]) -> tuple[Array, Array, Array, Array]:
    """G g."""
    a, b, c = parts
    return a, (a + b + c) / 2, (a - b + c) / 2, c


def _of_outputs(parts: Sequence[Array]) -> tuple[Array, Array]:
    """Aᵀ m."""
    a, b, c, d = parts
    return a + b + c, b - c - d
