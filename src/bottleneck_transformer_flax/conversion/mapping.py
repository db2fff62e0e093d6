"""Mappings between a PyTorch checkpoint's arrays and a model's variables, exact in both directions.

A project's mapping lists, for every array of its checkpoint, the variables that it holds and how it
holds them.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bottleneck_transformer_flax.conversion.public_weights import ProjectName
from bottleneck_transformer_flax.errors import MOST_NAMED, CheckpointError, first_of
from bottleneck_transformer_flax.models.config import BoTNetConfig

Arrays = Mapping[str, np.ndarray]


class Layout(NamedTuple):
    """How one array of a checkpoint holds one or more variables, and the inverse."""

    to_flax: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    to_torch: Callable[[Sequence[np.ndarray]], np.ndarray]


class MappedArray(NamedTuple):
    """One array of a checkpoint.

    Attributes:
        torch_name: name in the checkpoint.
        flax_names: names of the variables, such as "params.c2.block_1.reduce.convolution.kernel".
        layout: how the array holds them.
    """

    torch_name: str
    flax_names: tuple[str, ...]
    layout: Layout


class Project(NamedTuple):
    """Another project whose checkpoints can be converted.

    Attributes:
        name: name in messages and model cards.
        variants: models that the project has.
        mapping: every array of the checkpoint of the model that a config describes.
        head_bias: name of the array with one value for each class.
        crop: crop of its preprocessing for models without published weights.
    """

    name: ProjectName
    variants: tuple[str, ...]
    mapping: Callable[[BoTNetConfig], Iterator[MappedArray]]
    head_bias: str
    crop: float


def _transposed(*axes: int) -> Layout:
    inverse = tuple(np.argsort(axes))
    return Layout(
        lambda array: (array.transpose(axes),), lambda arrays: arrays[0].transpose(inverse)
    )


SAME = Layout(lambda array: (array,), lambda arrays: arrays[0])
CONVOLUTION = _transposed(2, 3, 1, 0)
"""(out, in, height, width) to (height, width, in, out)."""
CONVOLUTION_1D = _transposed(2, 1, 0)
"""(out, in, width) to (width, in, out)."""
LINEAR = _transposed(1, 0)
"""(out, in) to (in, out)."""
POINTWISE = Layout(
    lambda array: (array[:, :, 0, 0].T,), lambda arrays: arrays[0].T[:, :, None, None]
)
"""(out, in, 1, 1) to (in, out)."""


def projections(*head_sizes: int) -> Layout:
    """Layout of one 1×1 convolution that holds several projections, one after the other.

    (heads · sum of sizes, in, 1, 1) to an (in, heads, size) for each size.
    """

    def to_flax(array: np.ndarray) -> tuple[np.ndarray, ...]:
        out_channels, in_channels = array.shape[:2]
        heads = out_channels // sum(head_sizes)
        ends = np.cumsum([heads * size for size in head_sizes])[:-1]
        return tuple(
            part[:, :, 0, 0].T.reshape(in_channels, heads, -1) for part in np.split(array, ends)
        )

    def to_torch(arrays: Sequence[np.ndarray]) -> np.ndarray:
        parts = [array.reshape(len(array), -1).T for array in arrays]
        return np.concatenate(parts)[:, :, None, None]

    return Layout(to_flax, to_torch)


def convolution_norm(flax_name: str, convolution: str, norm: str) -> Iterator[MappedArray]:
    """A convolution without bias and the batch norm after it."""
    kernel = f"params.{flax_name}.convolution.kernel"
    yield MappedArray(f"{convolution}.weight", (kernel,), CONVOLUTION)
    yield from batch_norm(f"{flax_name}.norm", norm)


def batch_norm(flax_name: str, torch_name: str) -> Iterator[MappedArray]:
    """A batch norm's parameters and running statistics."""
    for collection, flax_leaf, torch_leaf in (
        ("params", "scale", "weight"),
        ("params", "bias", "bias"),
        ("batch_stats", "mean", "running_mean"),
        ("batch_stats", "var", "running_var"),
    ):
        variable = f"{collection}.{flax_name}.{flax_leaf}"
        yield MappedArray(f"{torch_name}.{torch_leaf}", (variable,), SAME)


def dense(flax_name: str, torch_name: str, layout: Layout) -> Iterator[MappedArray]:
    """A linear layer with its bias."""
    yield MappedArray(f"{torch_name}.weight", (f"params.{flax_name}.kernel",), layout)
    yield MappedArray(f"{torch_name}.bias", (f"params.{flax_name}.bias",), SAME)


def to_flax(
    mapping: Sequence[MappedArray], arrays: Arrays, expected: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert a checkpoint's arrays into a model's variables.

    Args:
        mapping: mapping of the project and the model.
        arrays: arrays of the checkpoint.
        expected: shape and dtype of every variable.

    Raises:
        CheckpointError: when arrays are missing, left over, of another shape, or not finite; the
            message counts them, and names the first of each kind.
    """
    known = {mapped.torch_name for mapped in mapping}
    missing = sorted(known - arrays.keys())
    left_over = sorted(arrays.keys() - known)
    wrong: list[str] = []
    converted: dict[str, np.ndarray] = {}
    for torch_name, flax_names, layout in mapping:
        array = arrays.get(torch_name)
        if array is None:
            continue
        blank = [np.empty(expected[name].shape, np.float32) for name in flax_names]
        shape = layout.to_torch(blank).shape
        if array.shape != shape:
            wrong.append(f"{torch_name} is {array.shape} instead of {shape}")
            continue
        if not np.isfinite(array).all():
            wrong.append(f"{torch_name} has values that are not finite")
        for name, part in zip(flax_names, layout.to_flax(array), strict=True):
            converted[name] = np.ascontiguousarray(part, dtype=expected[name].dtype)
    if count := len(missing) + len(left_over) + len(wrong):
        kinds = (
            f"missing: {first_of(_with_nearest(missing, left_over))}" * bool(missing),
            f"not in the model: {first_of(left_over)}" * bool(left_over),
            first_of(sorted(wrong)),
        )
        differences = "difference" if count == 1 else "differences"
        raise CheckpointError(f"{count} {differences}: {'; '.join(filter(None, kinds))}")
    return converted


def _with_nearest(missing: Sequence[str], left_over: Sequence[str]) -> list[str]:
    """Names that a checkpoint lacks, the first ones with the most similar of those left over."""

    def described(name: str) -> str:
        nearest = difflib.get_close_matches(name, left_over, n=1)
        return f"{name} (the nearest is {nearest[0]})" if nearest else name

    return [*map(described, missing[:MOST_NAMED]), *missing[MOST_NAMED:]]


def to_torch(mapping: Sequence[MappedArray], variables: Arrays) -> dict[str, np.ndarray]:
    """Convert a model's variables into a checkpoint's arrays."""
    return {
        torch_name: np.ascontiguousarray(
            layout.to_torch([np.asarray(variables[name]) for name in flax_names])
        )
        for torch_name, flax_names, layout in mapping
    }
