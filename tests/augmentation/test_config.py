"""The record of augmentation checks every value, and takes what JSON gives."""

import pytest

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.errors import ConfigError

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("crop", ["zoom", None], "one of none, shift, resized"),
        ("shift_pixels", [-1, 1.5, True], "an integer of at least 0"),
        ("min_scale", [0.0, 1.5, NAN, "1"], "a number in (0, 1]"),
        (
            "aspect_ratio",
            [(2.0, 1.0), (0.0, 1.0), (1.0, INFINITY), (NAN, 1.0), (1.0,), ("1", "2")],
            "(lowest, highest), both in [1/100, 100]",
        ),
        ("policy", ["auto"], "one of none, rand, trivial"),
        ("policy_layers", [0, 1.5, True], "an integer of at least 1"),
        ("policy_magnitude", [-1.0, 30.5, NAN, "9", True], "a number in [0, 30]"),
        ("mixup_alpha", [-0.1, 1e-40, 1e300, NAN, "1"], "a number that is 0 or in [0.001, 1000]"),
        (
            "cutmix_alpha",
            [-0.1, INFINITY, NAN, "1", False],
            "a number that is 0 or in [0.001, 1000]",
        ),
        ("erasing_probability", [-0.1, 1.1, NAN, True], "a number in [0, 1]"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(name, values, expected):
    for value in values:
        with pytest.raises(ConfigError) as caught:
            Augmentation(**{name: value})
        assert str(caught.value) == f"{name} is {value!r}; expected {expected}"


@pytest.mark.usefixtures("as_users_have_it")
def test_ends_of_the_ranges_and_lists_of_json_are_taken():
    for options in (
        {"shift_pixels": 0, "min_scale": 1, "policy_layers": 1, "policy_magnitude": 0},
        {"policy_magnitude": 30.0, "mixup_alpha": 1000.0, "cutmix_alpha": 0.001},
        {"erasing_probability": 1.0, "aspect_ratio": (0.01, 100.0)},
    ):
        augmentation = Augmentation(**options)
        assert {name: getattr(augmentation, name) for name in options} == options
    assert Augmentation(aspect_ratio=[0.5, 2.0]).aspect_ratio == (0.5, 2.0)
