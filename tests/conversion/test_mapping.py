"""Mappings of arrays: each layout has its inverse, and every misfit is counted."""

import re

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.conversion import timm
from bottleneck_transformer_flax.conversion.mapping import (
    CONVOLUTION,
    CONVOLUTION_1D,
    LINEAR,
    POINTWISE,
    SAME,
    projections,
    to_flax,
    to_torch,
)
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.models.variants import VARIANTS
from reference.small_models import variant_shapes

LAYOUTS = {
    "same": (SAME, (5,), [(5,)]),
    "convolution": (CONVOLUTION, (7, 2, 3, 5), [(3, 5, 2, 7)]),
    "convolution in one dimension": (CONVOLUTION_1D, (7, 2, 3), [(3, 2, 7)]),
    "linear": (LINEAR, (7, 2), [(2, 7)]),
    "pointwise": (POINTWISE, (7, 2, 1, 1), [(2, 7)]),
    "projections": (projections(2, 2, 5), (27, 4, 1, 1), [(4, 3, 2), (4, 3, 2), (4, 3, 5)]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_has_its_inverse(name):
    layout, shape, ours = LAYOUTS[name]
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    parts = layout.to_flax(array)
    assert [part.shape for part in parts] == ours
    np.testing.assert_array_equal(layout.to_torch(parts), array)


def test_every_axis_goes_where_it_means_to():
    """An inverse alone would not show it."""
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert CONVOLUTION.to_flax(kernel)[0][3, 4, 2, 1] == kernel[1, 2, 3, 4]
    assert CONVOLUTION_1D.to_flax(kernel[0])[0][4, 3, 2] == kernel[0, 2, 3, 4]
    fused = np.arange(18 * 4).reshape(18, 4, 1, 1)
    query, key, value = projections(2, 2, 5).to_flax(fused)
    # Two heads: rows 0 to 3 are the queries, 4 to 7 the keys, 8 to 17 the values.
    assert query[3, 1, 0] == fused[2, 3, 0, 0]
    assert key[1, 0, 1] == fused[5, 1, 0, 0]
    assert value[2, 1, 4] == fused[17, 2, 0, 0]


def test_every_misfit_is_told_once_and_what_fits_is_contiguous():
    name = "sebotnet33ts_256"
    mapping = list(timm.mapping(VARIANTS[name].config))
    expected = flatten_dict(variant_shapes(name), sep=".")
    zeros = {path: np.zeros(leaf.shape, np.float32) for path, leaf in expected.items()}
    arrays = to_torch(mapping, zeros)
    converted = to_flax(mapping, arrays, expected)
    assert converted.keys() == expected.keys()
    for array in converted.values():
        assert (array.flags.c_contiguous, array.dtype) == (True, np.float32)
    del arrays["stem.conv1.bn.bias"]
    arrays["head.fc.weight"] = np.zeros((10, 1280), np.float32)
    arrays["stages.0.0.attn.fc3.weight"] = np.zeros(1, np.float32)
    arrays["head.fc.bias"] = np.full(1000, np.nan, np.float32)
    with pytest.raises(CheckpointError) as error:
        to_flax(mapping, arrays, expected)
    assert str(error.value) == (
        "4 differences: missing: stem.conv1.bn.bias; not in the model: stages.0.0.attn.fc3.weight; "
        "head.fc.bias has values that are not finite, head.fc.weight is (10, 1280) instead of "
        "(1000, 1280)"
    )


def test_of_many_misfits_the_first_are_named_with_the_nearest_names():
    name = "botnet26t_256"
    mapping = list(timm.mapping(VARIANTS[name].config))
    expected = flatten_dict(variant_shapes(name), sep=".")
    arrays = {mapped.torch_name.replace("conv1_1x1", "conv1"): np.zeros(1) for mapped in mapping}
    with pytest.raises(CheckpointError) as error:
        to_flax(mapping, arrays, expected)
    message = str(error.value)
    near = "stages.0.0.conv1_1x1.bn.bias (the nearest is stages.0.0.conv1.bn.bias), "
    assert f" differences: missing: {near}" in message
    assert message.count("the nearest is") == 5
    # Of each kind, some are counted.
    assert len(re.findall(r" and \d+ more", message)) == 3
    assert len(message) < 1500
