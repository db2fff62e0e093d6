"""The studies compare what they say, and their statistics are right."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks import last_stage
from benchmarks.last_stage import NETWORKS, mean_and_interval
from benchmarks.resolution import (
    MOVES,
    clamped,
    cropped,
    mcnemar_p_value,
    measure,
    move_tables,
    ways_between,
    zero_padded,
)
from bottleneck_transformer_flax import BoTNet, load_pretrained, resize_relative_positions
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.data.sources.memory import ArraySource
from bottleneck_transformer_flax.models.flops import abstract_variables, count_multiply_adds

TRAINED, OTHER = (28, 28), (42, 56)


@pytest.fixture
def trained(as_users_have_it):
    # JSON has lists where the types say tuples.
    return load_pretrained("botnet_tiny")


def numbered_table(length):
    """In the row of every offset the offset itself, plus 100, and its negative."""
    offsets = np.arange(1 - length, length, dtype=np.float32)
    return jnp.asarray(np.stack([100 + offsets, -100 - offsets], axis=1))


def row_by_row(table, length, beyond):
    """Offset by offset: the old row where there was one, else what ``beyond`` says."""
    farthest = (len(table) - 1) // 2
    rows = []
    for offset in range(-(length - 1), length):
        if abs(offset) <= farthest:
            rows.append(np.asarray(table)[offset + farthest])
        elif beyond == "zeros":
            rows.append(np.zeros(table.shape[1]))
        else:
            rows.append(np.asarray(table)[0 if offset < 0 else -1])
    return np.stack(rows)


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 3), (2, 3), (4, 6), (4, 7), (7, 13)])
def test_a_longer_axis_keeps_the_old_rows(old, new):
    table = numbered_table(old)
    np.testing.assert_array_equal(zero_padded(table, new), row_by_row(table, new, "zeros"))
    np.testing.assert_array_equal(clamped(table, new), row_by_row(table, new, "farthest"))


@pytest.mark.parametrize(("old", "new"), [(1, 1), (2, 1), (4, 3), (4, 2), (7, 4)])
def test_a_shorter_axis_drops_the_farthest_rows(old, new):
    table = numbered_table(old)
    np.testing.assert_array_equal(cropped(table, new), row_by_row(table, new, "never"))


@pytest.mark.parametrize("name", ways_between(TRAINED, OTHER))
def test_only_the_tables_are_moved(trained, name):
    _, library = resize_relative_positions(trained.model, trained.variables, OTHER)
    before, resized = flatten_dict(trained.variables), flatten_dict(library)
    lengths = {"relative_height": 6, "relative_width": 7}
    move, _ = MOVES[name]
    for path, array in flatten_dict(move_tables(trained.variables, library, move)).items():
        if path[-1] not in lengths:
            assert array is before[path], path
        else:
            np.testing.assert_array_equal(array, move(before[path], lengths[path[-1]]))
            assert name != "interpolated" or np.array_equal(array, resized[path])
            assert name != "none" or not array.any()


def test_which_ways_mean_something():
    assert ways_between(TRAINED, TRAINED) == ("as trained", "none")
    assert ways_between(TRAINED, (56, 28)) == ("interpolated", "zero-padded", "clamped", "none")
    assert ways_between(TRAINED, (14, 21)) == ("interpolated", "cropped", "none")


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("second", range(5))
def test_p_value_counts_all_ways_to_split(first, second):
    """The share of all equally likely sequences of sides that are split at least as unevenly."""
    splits = [sum(sides) for sides in itertools.product((0, 1), repeat=first + second)]
    at_least_as_uneven = [abs(2 * k - first - second) >= abs(first - second) for k in splits]
    assert mcnemar_p_value(first, second) == pytest.approx(np.mean(at_least_as_uneven))


def test_rows_compare_each_way_with_the_library(trained):
    images = load_splits("embedded").validation
    few = ArraySource(images.images[:20], images.labels[:20], images.class_names)
    rows = measure(trained, few, OTHER)
    assert [row.tables for row in rows] == list(ways_between(TRAINED, OTHER))
    assert (rows[0].only_this_right, rows[0].loss_difference, rows[0].p_value) == (0, 0.0, 1.0)
    for row in rows:
        assert (row.height, row.width, row.grid_height, row.grid_width) == (42, 56, 6, 7)
        assert row.loss - rows[0].loss == pytest.approx(row.loss_difference, abs=2e-6)
        gained = row.only_this_right - row.only_library_right
        assert 20 * (row.top1 - rows[0].top1) == pytest.approx(gained)


def test_networks_differ_in_the_last_stage_alone_and_cost_the_same():
    parts, costs = {}, {}
    for name, config in NETWORKS.items():
        model = BoTNet(config=config)
        params = abstract_variables(model, TRAINED)["params"]
        parts[name] = {part: jax.tree.map(lambda leaf: leaf.shape, params[part]) for part in params}
        costs[name] = count_multiply_adds(model, TRAINED)
    ours, theirs = parts["attention"], parts["convolution"]
    assert ours.keys() == theirs.keys()
    assert {part for part in ours if ours[part] != theirs[part]} == {"c5"}
    assert 0.995 * costs["convolution"] <= costs["attention"] <= costs["convolution"]


def test_the_interval_is_students():
    # 4.303 and 12.706 are the 97.5 % quantiles of two degrees of freedom and of one.
    assert mean_and_interval([1, 2, 3]) == pytest.approx((2, 4.302653 / 3**0.5))
    assert mean_and_interval([0, 2]) == pytest.approx((1, 12.706205))


def test_the_difference_is_of_the_last_epochs_seed_by_seed():
    numbers = {"parameters": 1, "multiply_adds": 1, "train_loss": 0.5, "validation_loss": 0.3}
    row = last_stage.Row(network="", seed=0, epoch=1, validation_top1=0.1, **numbers)
    rows = [
        replace(row, network=network, seed=seed, epoch=epoch, top1=top1 - 0.1 * (2 - epoch))
        for network, seed, top1 in (
            ("convolution", 3, 0.90),
            ("convolution", 4, 0.92),
            ("attention", 3, 0.91),
            ("attention", 4, 0.94),
        )
        for epoch in (1, 2)
    ]
    for ordered in (rows, rows[::-1]):
        line = last_stage.difference_line(ordered)
        # Half the distance of the two differences, 0.5 points, times 12.706.
        assert line.startswith("attention − convolution: +1.50 ± 6.35 points")
    assert len(last_stage.draw(rows, "data").axes[0].lines) == 4
