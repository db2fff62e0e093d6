"""Values by their paths."""

from bottleneck_transformer_flax.cli.record_paths import differences, flattened


def test_every_value_is_there_once_in_order():
    record = {"a": 1, "b": {"c": (2, 3), "d": {"e": None}}, "f": {}}
    assert list(flattened(record)) == [("a", 1), ("b.c", (2, 3)), ("b.d.e", None)]


def test_differences_are_paths_with_the_new_values():
    before = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    after = {"a": 1, "b": {"c": 4, "d": {"e": 5}}}
    assert list(differences(before, after)) == [("b.c", 4), ("b.d.e", 5)]
