"""The ways to move a table are what resolution.py says, and its scores are those of evaluate."""

import csv
import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from benchmarks.report import csv_text
from benchmarks.resolution import (
    MOVES,
    clamped,
    cropped,
    mcnemar_p_value,
    measure,
    move_tables,
    run,
    score_each,
    ways_between,
    without,
    zero_padded,
)
from benchmarks.resolution_report import draw_resolution, table_text
from bottleneck_transformer_flax import load_pretrained, resize_relative_positions
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.data.sources.memory import ArraySource
from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
from bottleneck_transformer_flax.figures.style import save_png

TRAINED = (28, 28)
OTHER = (42, 56)


@pytest.fixture
def trained(as_users_have_it):
    # JSON has lists where the types say tuples.
    return load_pretrained("botnet_tiny")


@pytest.fixture
def few_images():
    test = load_splits("embedded").validation
    return ArraySource(test.images[:20], test.labels[:20], test.class_names)


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


def test_a_small_table_as_one_would_write_it():
    table = numbered_table(2)
    np.testing.assert_array_equal(table[:, 0], [99, 100, 101])
    np.testing.assert_array_equal(zero_padded(table, 4)[:, 0], [0, 0, 99, 100, 101, 0, 0])
    np.testing.assert_array_equal(clamped(table, 4)[:, 0], [99, 99, 99, 100, 101, 101, 101])
    np.testing.assert_array_equal(
        MOVES["interpolated"](table, 3)[:, 0], [99, 99.5, 100, 100.5, 101]
    )
    np.testing.assert_array_equal(cropped(table, 1)[:, 0], [100])
    np.testing.assert_array_equal(without(table, 2), np.zeros((3, 2)))


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 3), (2, 3), (4, 6), (4, 7), (7, 13)])
def test_a_longer_axis(old, new):
    table = numbered_table(old)
    np.testing.assert_array_equal(zero_padded(table, new), row_by_row(table, new, "zeros"))
    np.testing.assert_array_equal(clamped(table, new), row_by_row(table, new, "farthest"))


@pytest.mark.parametrize(("old", "new"), [(1, 1), (2, 1), (4, 3), (4, 2), (7, 4)])
def test_a_shorter_axis(old, new):
    table = numbered_table(old)
    np.testing.assert_array_equal(cropped(table, new), row_by_row(table, new, "never"))


def test_at_the_trained_size_all_ways_give_the_same_bits(trained, few_images):
    model, library = resize_relative_positions(trained.model, trained.variables, TRAINED)
    assert model is trained.model
    moved = {name: move_tables(trained.variables, library, move) for name, move in MOVES.items()}
    before = flatten_dict(trained.variables)
    outcomes = score_each(trained, moved, few_images)
    for name in MOVES.keys() - {"none"}:
        for path, array in flatten_dict(moved[name]).items():
            np.testing.assert_array_equal(array, before[path], err_msg=f"{name}: {path}")
        np.testing.assert_array_equal(outcomes[name].losses, outcomes["as trained"].losses)
    assert np.abs(outcomes["none"].losses - outcomes["as trained"].losses).max() > 1e-4


@pytest.mark.parametrize("name", ways_between(TRAINED, OTHER))
def test_only_the_tables_are_moved(trained, name):
    _, library = resize_relative_positions(trained.model, trained.variables, OTHER)
    before, resized = flatten_dict(trained.variables), flatten_dict(library)
    lengths = {"relative_height": 6, "relative_width": 7}
    seen = []
    for path, array in flatten_dict(move_tables(trained.variables, library, MOVES[name])).items():
        if path[-1] in lengths:
            seen.append(path[-1])
            np.testing.assert_array_equal(array, MOVES[name](before[path], lengths[path[-1]]))
            if name == "interpolated":
                np.testing.assert_array_equal(array, resized[path])
        else:
            assert array is before[path], path
    assert sorted(seen) == sorted(lengths)


def test_which_ways_mean_something():
    assert ways_between(TRAINED, TRAINED) == ("as trained", "none")
    assert ways_between(TRAINED, (56, 28)) == ("interpolated", "zero-padded", "clamped", "none")
    assert ways_between(TRAINED, (14, 21)) == ("interpolated", "cropped", "none")


@pytest.mark.usefixtures("as_users_have_it")
def test_scores_are_those_of_evaluate(few_images):
    pretrained = load_pretrained("botnet_tiny", image_size=OTHER)
    outcome = score_each(pretrained, {"library": pretrained.variables}, few_images)["library"]
    evaluator = Evaluator(pretrained.model, pretrained.preprocessing, batch_size=8)
    predictions = evaluator(pretrained.variables, few_images)
    assert (len(outcome.right), outcome.right.mean()) == (predictions.count, predictions.top1)
    np.testing.assert_allclose(outcome.losses.mean(), predictions.loss, rtol=1e-5)


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("second", range(5))
def test_p_value_counts_all_ways_to_split(first, second):
    """Of all equally likely sequences of sides, those whose split is at least as uneven."""
    splits = [sum(sides) for sides in itertools.product((0, 1), repeat=first + second)]
    at_least_as_uneven = [abs(2 * k - first - second) >= abs(first - second) for k in splits]
    assert mcnemar_p_value(first, second) == pytest.approx(np.mean(at_least_as_uneven))


def test_rows_compare_each_way_with_the_library(trained, few_images, tmp_path):
    rows = measure(trained, few_images, OTHER)
    assert [row.tables for row in rows] == list(ways_between(TRAINED, OTHER))
    assert (rows[0].only_this_right, rows[0].loss_difference, rows[0].p_value) == (0, 0.0, 1.0)
    for row in rows:
        assert (row.height, row.width, row.grid_height, row.grid_width) == (42, 56, 6, 7)
        assert row.loss - rows[0].loss == pytest.approx(row.loss_difference, abs=2e-6)
        gained = row.only_this_right - row.only_library_right
        assert 20 * (row.top1 - rows[0].top1) == pytest.approx(gained)
    (tmp_path / "rows.csv").write_text(csv_text(rows, {"hardware": "a machine"}))
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    for record, row in zip(read, rows, strict=True):
        expected = dataclasses.asdict(row) | {"hardware": "a machine"}
        assert record == {name: str(value) for name, value in expected.items()}
    assert [line.split()[-1] for line in table_text(rows).splitlines()[-3:]] == [
        f"{row.loss_difference_95:.4f}" for row in rows[1:]
    ]
    save_png(draw_resolution(rows), tmp_path / "rows.png")
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.size == (1800, 690)


def test_a_file_in_the_place_of_the_folder_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(["--out", str(tmp_path / "file")]) == 1
    said = capsys.readouterr()
    assert said.err == f"resolution.py: error: {tmp_path / 'file'}: File exists\n"
    assert said.out == ""
