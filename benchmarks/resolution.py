"""Score botnet_tiny at other input sizes, its relative tables moved there in several ways.

    python -m benchmarks resolution

docs/resolution.md says what is compared and what came of it.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks.resolution_report import Row, draw_resolution, table_text
from benchmarks.study import run_study, study_parser
from bottleneck_transformer_flax import Pretrained, load_pretrained, resize_relative_positions
from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.axes import Array, Bool, Float, Int, UInt8
from bottleneck_transformer_flax.data.datasets import load_parts
from bottleneck_transformer_flax.data.loader import evaluation_batches
from bottleneck_transformer_flax.data.sources.base import VALIDATION, ImageSource
from bottleneck_transformer_flax.layers.relative_position import resize_table
from bottleneck_transformer_flax.models.botnet import classify
from bottleneck_transformer_flax.models.surgery import RELATIVE_TABLES, Variables

MODEL = "botnet_tiny"
IMAGE_SIZES = ((14, 14), (21, 21), (28, 28), (42, 42), (42, 56), (56, 56))
BATCH_SIZE = 100

Move = Callable[[Float[Array, "rows d"], int], Float[Array, "new_rows d"]]


def zero_padded(table: Float[Array, "rows d"], length: int) -> Float[Array, "new_rows d"]:
    """Every old offset keeps its row; the farther ones of a longer axis get zeros."""
    return jnp.pad(table, (_rows_added(table, length), (0, 0)))


def clamped(table: Float[Array, "rows d"], length: int) -> Float[Array, "new_rows d"]:
    """Every old offset keeps its row; the farther ones of a longer axis repeat the farthest."""
    return jnp.pad(table, (_rows_added(table, length), (0, 0)), mode="edge")


def cropped(table: Float[Array, "rows d"], length: int) -> Float[Array, "new_rows d"]:
    """Every offset of a shorter axis keeps its row; the farther ones are dropped."""
    centre = len(table) // 2
    return table[centre - length + 1 : centre + length]


def without(table: Float[Array, "rows d"], length: int) -> Float[Array, "new_rows d"]:
    """Zeros: no relative position at all."""
    return jnp.zeros((2 * length - 1, table.shape[1]), table.dtype)


MOVES: Mapping[str, Move] = {
    "as trained": resize_table,
    "interpolated": resize_table,
    "zero-padded": zero_padded,
    "clamped": clamped,
    "cropped": cropped,
    "none": without,
}


def ways_between(trained: tuple[int, int], image_size: tuple[int, int]) -> tuple[str, ...]:
    """The names in ``MOVES`` that mean something from one size to another, the library's first."""
    if image_size == trained:
        return ("as trained", "none")
    if image_size[0] >= trained[0] and image_size[1] >= trained[1]:
        return ("interpolated", "zero-padded", "clamped", "none")
    return ("interpolated", "cropped", "none")


def move_tables(old: Variables, resized: Variables, move: Move) -> Variables:
    """Variables with every relative table of ``old``, moved to the grid of ``resized``.

    Args:
        old: variables at the size they were trained at.
        resized: the same at the new size, as ``resize_relative_positions`` gives them.
        move: from an old table to that of an axis of some length.
    """
    params, old_params = flatten_dict(resized["params"]), flatten_dict(old["params"])
    for path, table in params.items():
        if path[-1] in RELATIVE_TABLES:
            params[path] = move(old_params[path], _length(table))
    return dict(resized) | {"params": unflatten_dict(params)}


class Outcome(NamedTuple):
    """What a model made of every image of a source, in order."""

    right: Bool[np.ndarray, " n"]
    losses: Float[np.ndarray, " n"]


def score_each(
    pretrained: Pretrained, candidates: Mapping[str, Variables], source: ImageSource
) -> dict[str, Outcome]:
    """The outcome of every candidate, all variables of one model, on the same images.

    The images come and are classified as in ``botnet evaluate``, which keeps only sums.
    """
    model, _, preprocessing, _ = pretrained

    @jax.jit
    def score(
        variables: Variables, images: UInt8[Array, "b h w c"], labels: Int[Array, " b"]
    ) -> tuple[Array, Array]:
        logits = classify(model, preprocessing, variables, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.argmax(logits, axis=-1) == labels, losses

    parts: dict[str, list[Outcome]] = {name: [] for name in candidates}
    transform = EvaluationTransform(preprocessing)
    for batch in evaluation_batches(source, transform, batch_size=min(BATCH_SIZE, len(source))):
        for name, variables in candidates.items():
            right, losses = score(variables, batch["image"], batch["label"])
            valid = batch["valid"]
            parts[name].append(Outcome(np.asarray(right)[valid], np.asarray(losses)[valid]))
    return {
        name: Outcome(*map(np.concatenate, zip(*of, strict=True))) for name, of in parts.items()
    }


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """McNemar's exact test: how likely so uneven a split is where either side is as likely.

    Two-sided: twice the smaller tail of Binomial(only_first + only_second, 1/2), at most 1.
    """
    differing = only_first + only_second
    tail = sum(comb(differing, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**differing)


def measure(trained: Pretrained, source: ImageSource, image_size: tuple[int, int]) -> list[Row]:
    """Score every way to move a trained model's tables to one image size; the library's first."""
    model, library = resize_relative_positions(trained.model, trained.variables, image_size)
    candidates = {
        name: move_tables(trained.variables, library, MOVES[name])
        for name in ways_between(trained.preprocessing.size, image_size)
    }
    preprocessing = trained.preprocessing.replace(size=image_size)
    resized = trained._replace(model=model, variables=library, preprocessing=preprocessing)
    outcomes = score_each(resized, candidates, source)
    reference = next(iter(outcomes.values()))
    return [
        _compare(outcome, reference, tables=name, image_size=image_size, grid=_grid(library))
        for name, outcome in outcomes.items()
    ]


def _compare(
    outcome: Outcome,
    reference: Outcome,
    *,
    tables: str,
    image_size: tuple[int, int],
    grid: tuple[int, int],
) -> Row:
    count = len(outcome.right)
    only_this = int((outcome.right & ~reference.right).sum())
    only_library = int((reference.right & ~outcome.right).sum())
    differences = outcome.losses.astype(np.float64) - reference.losses
    return Row(
        height=image_size[0],
        width=image_size[1],
        grid_height=grid[0],
        grid_width=grid[1],
        tables=tables,
        count=count,
        top1=int(outcome.right.sum()) / count,
        loss=round(float(outcome.losses.mean(dtype=np.float64)), 6),
        only_this_right=only_this,
        only_library_right=only_library,
        p_value=round(mcnemar_p_value(only_this, only_library), 6),
        loss_difference=round(float(differences.mean()), 6),
        loss_difference_95=round(1.96 * float(differences.std(ddof=1)) / count**0.5, 6),
    )


def _rows_added(table: Array, length: int) -> tuple[int, int]:
    added = length - _length(table)
    return (added, added)


def _length(table: Array) -> int:
    """Positions along the axis of a table of 2L − 1 rows."""
    return (len(table) + 1) // 2


def _grid(variables: Variables) -> tuple[int, int]:
    """(height, width) of the grid that the first attention block is over."""
    tables: dict[str, int] = {}
    for path, table in flatten_dict(variables["params"]).items():
        if path[-1] in RELATIVE_TABLES:
            tables.setdefault(path[-1], _length(table))
    return tables["relative_height"], tables["relative_width"]


def measure_all() -> list[Row]:
    """Every way at every size, with a line of progress for each size."""
    trained, source = load_pretrained(MODEL), load_parts("embedded")[VALIDATION]
    rows: list[Row] = []
    for number, (height, width) in enumerate(IMAGE_SIZES, start=1):
        start = time.perf_counter()
        rows += measure(trained, source, (height, width))
        seconds = time.perf_counter() - start
        progress = f"{number}/{len(IMAGE_SIZES)}  {height} × {width} pixels  {seconds:.0f} s"
        print(progress, file=sys.stderr, flush=True)
    return rows


def run(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when it is done, 1 when it failed, with one line that says why."""
    options = study_parser("resolution", __doc__ or "").parse_args(arguments)
    return run_study(
        "resolution", options, measure=measure_all, draw=draw_resolution, table=table_text
    )
