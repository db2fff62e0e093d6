"""The resolution study compares what it says, and its statistics are right."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks import resolution
from benchmarks.resolution import (
    MOVES,
    clamped,
    cropped,
    mcnemar_p_value,
    move_tables,
    ways_between,
    zero_padded,
)
from bottleneck_transformer_flax import load_pretrained, resize_relative_positions

TRAINED, OTHER = (28, 28), (42, 56)


@pytest.fixture
def trained(as_users_have_it):
    # JSON has lists where the types say tuples.
    return load_pretrained("botnet_tiny")


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 3), (2, 3), (4, 7), (4, 3), (4, 1), (7, 4)])
def test_tables_move_row_by_row(old, new):
    """A longer axis keeps the old rows, and a shorter one drops the farthest."""
    table = jnp.arange(101 - old, 100 + old)[:, None]
    offsets = np.arange(1 - new, new)
    if new <= old:
        np.testing.assert_array_equal(cropped(table, new)[:, 0], 100 + offsets)
    else:
        with_zeros = np.where(np.abs(offsets) < old, 100 + offsets, 0)
        np.testing.assert_array_equal(zero_padded(table, new)[:, 0], with_zeros)
        repeated = 100 + np.clip(offsets, 1 - old, old - 1)
        np.testing.assert_array_equal(clamped(table, new)[:, 0], repeated)


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


def test_p_value_counts_all_ways_to_split():
    """The share of all equally likely sequences of sides that are split at least as unevenly."""
    for first, second in itertools.product(range(5), repeat=2):
        splits = [sum(sides) for sides in itertools.product((0, 1), repeat=first + second)]
        at_least_as_uneven = [abs(2 * k - first - second) >= abs(first - second) for k in splits]
        assert mcnemar_p_value(first, second) == pytest.approx(np.mean(at_least_as_uneven))


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_have_it")
def test_the_command_compares_each_way_with_the_library(call, tmp_path, monkeypatch):
    monkeypatch.setattr(resolution, "IMAGE_SIZES", (TRAINED, OTHER))
    called = call("resolution", "--out", tmp_path, "--json")
    assert called.code == 0
    rows = [json.loads(line) for line in called.out.splitlines()]
    ways = [*ways_between(TRAINED, TRAINED), *ways_between(TRAINED, OTHER)]
    assert [row["tables"] for row in rows] == ways
    assert rows[0]["top1"] > 0.85 and rows[0]["hardware"]
    for row in rows:
        first = next(each for each in rows if each["width"] == row["width"])
        assert row["loss"] - first["loss"] == pytest.approx(row["loss_difference"], abs=2e-6)
        gained = row["only_this_right"] - row["only_library_right"]
        assert 1000 * (row["top1"] - first["top1"]) == pytest.approx(gained, abs=1e-6)
    assert (rows[-1]["grid_height"], rows[-1]["grid_width"]) == (6, 7)
    assert (tmp_path / "resolution.png").stat().st_size > 0
