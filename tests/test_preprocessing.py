"""The record of how images become input: what it computes, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.preprocessing import Preprocessing, checked_image_size

pytestmark = pytest.mark.usefixtures("as_users_have_it")


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_normalising_follows_its_equation(array):
    record = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    images = array(np.array([[0, 51, 102], [255, 255, 255]], np.uint8))
    expected = [[-1.0, -0.2, 0.2], [1.0, 3.0, 0.5]]
    normalized = record.normalize(images)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 4, 1), (2, 3, 4, 4), (), (4, 4)])
def test_anything_but_three_channels_last_is_refused(shape):
    with pytest.raises(ConfigError, match="three channels last"):
        Preprocessing().normalize(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("size", [4, (4,), (4, 4, 4), (4.5, 4), (0, 4), "ab", None])
def test_what_is_no_size_is_told(size):
    with pytest.raises(ConfigError, match=r"image size is .*expected \(height, width\)"):
        Preprocessing(size=size)


@pytest.mark.parametrize("size", [(4, 6), [4, 6], (np.int64(4), np.int32(6))])
def test_a_size_is_two_plain_integers(size):
    assert checked_image_size(size) == (4, 6)
    assert [type(side) for side in checked_image_size(size)] == [int, int]


def test_json_round_trip():
    record = Preprocessing(size=(3, 5), crop=0.9, interpolation="lanczos")
    assert Preprocessing.from_json(record.to_json()) == record
    assert Preprocessing.from_json(record.replace(temperature=2).to_json()).temperature == 2
    # What earlier versions wrote, and hash.
    assert "temperature" not in record.to_json()
    with pytest.raises(ConfigError, match=r"unknown keys.*'sise'"):
        Preprocessing.from_json({"sise": [3, 5]})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", ("a", "b", "c")),
        ("mean", 0.5),
        ("mean", None),
        ("mean", (0.5, 0.5)),
        ("std", (float("nan"),) * 3),
        ("std", (1.0, float("inf"), 1.0)),
        ("std", (1.0, 0.0, 1.0)),
        ("crop", "0.9"),
        ("crop", 0),
        ("crop", float("nan")),
        ("size", (10**12, 10**12)),
        ("interpolation", "best"),
        ("temperature", 0.0),
        ("temperature", float("inf")),
        ("temperature", None),
    ],
)
def test_a_wrong_value_names_the_field(field, value):
    with pytest.raises(ConfigError, match=field):
        Preprocessing(**{field: value})
