"""Arrays of another project's checkpoint to ours and back: every rule has its inverse."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bottleneck_transformer_flax.errors import CheckpointError

Arrays = Mapping[str, np.ndarray]


class Layout(NamedTuple):
    """How one foreign array holds one or several of ours, and the way back."""

    to_ours: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    to_theirs: Callable[[Sequence[np.ndarray]], np.ndarray]


class Rule(NamedTuple):
    """One array of a foreign checkpoint.

    Attributes:
        theirs: its name there.
        ours: the names of what it holds, such as "params.c2.block_1.reduce.convolution.kernel".
        layout: how it holds them.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: Layout


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
    """One 1×1 convolution to several projections of heads × size, one after the other.

    (heads · sum of sizes, in, 1, 1) to an (in, heads, size) for each of the sizes.
    """

    def to_ours(array: np.ndarray) -> tuple[np.ndarray, ...]:
        out_channels, in_channels = array.shape[:2]
        heads = out_channels // sum(head_sizes)
        ends = np.cumsum([heads * size for size in head_sizes])[:-1]
        return tuple(
            part[:, :, 0, 0].T.reshape(in_channels, heads, -1) for part in np.split(array, ends)
        )

    def to_theirs(arrays: Sequence[np.ndarray]) -> np.ndarray:
        parts = [array.reshape(len(array), -1).T for array in arrays]
        return np.concatenate(parts)[:, :, None, None]

    return Layout(to_ours, to_theirs)


def convolution_norm(ours: str, convolution: str, norm: str) -> Iterator[Rule]:
    """A convolution without bias and the batch norm after it."""
    yield Rule(f"{convolution}.weight", (f"params.{ours}.convolution.kernel",), CONVOLUTION)
    yield from batch_norm(f"{ours}.norm", norm)


def batch_norm(ours: str, theirs: str) -> Iterator[Rule]:
    """PyTorch's names of a batch norm's parameters and statistics."""
    for collection, our_name, their_name in (
        ("params", "scale", "weight"),
        ("params", "bias", "bias"),
        ("batch_stats", "mean", "running_mean"),
        ("batch_stats", "var", "running_var"),
    ):
        yield Rule(f"{theirs}.{their_name}", (f"{collection}.{ours}.{our_name}",), SAME)


def dense(ours: str, theirs: str, layout: Layout) -> Iterator[Rule]:
    """A linear layer with its bias."""
    yield Rule(f"{theirs}.weight", (f"params.{ours}.kernel",), layout)
    yield Rule(f"{theirs}.bias", (f"params.{ours}.bias",), SAME)


def to_ours(rules: Sequence[Rule], theirs: Arrays, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Their arrays under our names.

    Args:
        rules: of the project and the model.
        theirs: the checkpoint.
        expected: our variables as shapes and dtypes.

    Raises:
        CheckpointError: listing every array that is missing, left over, of another shape, or not
            finite.
    """
    problems = [f"missing: {rule.theirs}" for rule in rules if rule.theirs not in theirs]
    known = {rule.theirs for rule in rules}
    problems += [f"not in the model: {name}" for name in theirs if name not in known]
    converted: dict[str, Any] = {}
    for rule in rules:
        array = theirs.get(rule.theirs)
        if array is None:
            continue
        blank = [np.empty(expected[name].shape, np.float32) for name in rule.ours]
        shape = rule.layout.to_theirs(blank).shape
        if array.shape != shape:
            problems.append(f"{rule.theirs} is {array.shape}, expected {shape}")
            continue
        if not np.isfinite(array).all():
            problems.append(f"{rule.theirs} has values that are not finite")
        for name, part in zip(rule.ours, rule.layout.to_ours(array), strict=True):
            converted[name] = np.ascontiguousarray(part, dtype=expected[name].dtype)
    filled = {name for rule in rules for name in rule.ours}
    problems += [f"filled by no rule: {name}" for name in expected if name not in filled]
    if problems:
        raise CheckpointError(
            f"{len(problems)} difference{'s' * (len(problems) > 1)}: " + "; ".join(sorted(problems))
        )
    return converted


def to_theirs(rules: Sequence[Rule], ours: Arrays) -> dict[str, np.ndarray]:
    """Our arrays under their names."""
    return {
        rule.theirs: np.ascontiguousarray(
            rule.layout.to_theirs([np.asarray(ours[name]) for name in rule.ours])
        )
        for rule in rules
    }
