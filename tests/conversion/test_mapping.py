"""The rules that carry arrays over: each has its inverse, and all that does not fit is listed."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.conversion.mapping import (
    CONVOLUTION,
    CONVOLUTION_1D,
    LINEAR,
    POINTWISE,
    SAME,
    projections,
    to_ours,
    to_theirs,
)
from bottleneck_transformer_flax.conversion.timm import rules
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
NAME = "sebotnet33ts_256"


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_and_its_inverse(name):
    layout, shape, ours = LAYOUTS[name]
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    parts = layout.to_ours(array)
    assert [part.shape for part in parts] == ours
    np.testing.assert_array_equal(layout.to_theirs(parts), array)


def test_where_a_value_goes():
    """The axes by their meaning, which an inverse alone would not show."""
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert CONVOLUTION.to_ours(kernel)[0][3, 4, 2, 1] == kernel[1, 2, 3, 4]
    assert CONVOLUTION_1D.to_ours(kernel[0])[0][4, 3, 2] == kernel[0, 2, 3, 4]
    fused = np.arange(18 * 4).reshape(18, 4, 1, 1)
    query, key, value = projections(2, 2, 5)[0](fused)
    # Two heads: rows 0 to 3 are the queries, 4 to 7 the keys, 8 to 17 the values.
    assert query[3, 1, 0] == fused[2, 3, 0, 0]
    assert key[1, 0, 1] == fused[5, 1, 0, 0]
    assert value[2, 1, 4] == fused[17, 2, 0, 0]


def blank(name):
    """Variables of the right shapes, and what timm would hold of them."""
    expected = flatten_dict(variant_shapes(name), sep=".")
    ours = {path: np.zeros(leaf.shape, np.float32) for path, leaf in expected.items()}
    listed = list(rules(VARIANTS[name].config))
    return listed, expected, to_theirs(listed, ours)


def test_every_variable_is_in_one_rule():
    listed, expected, theirs = blank(NAME)
    named = [name for rule in listed for name in rule.ours]
    assert sorted(named) == sorted(expected)
    assert len(theirs) == len(listed)
    assert to_ours(listed, theirs, expected).keys() == expected.keys()


def test_all_that_does_not_fit_is_in_one_error():
    listed, expected, theirs = blank(NAME)
    del theirs["stem.conv1.bn.bias"]
    theirs["head.fc.weight"] = np.zeros((10, 1280), np.float32)
    theirs["stages.0.0.attn.fc3.weight"] = np.zeros(1, np.float32)
    del listed[-1]
    with pytest.raises(CheckpointError) as error:
        to_ours(listed, theirs, expected)
    message = str(error.value)
    assert "5 differences" in message
    for words in (
        "missing: stem.conv1.bn.bias",
        "head.fc.weight is (10, 1280), expected (1000, 1280)",
        "not in the model: stages.0.0.attn.fc3.weight",
        "not in the model: head.fc.bias",
        "filled by no rule: params.head.bias",
    ):
        assert words in message
    assert "\n" not in message


def test_another_model_s_checkpoint_is_refused():
    listed, expected, _ = blank(NAME)
    _, _, theirs = blank("botnet50ts_256")
    with pytest.raises(CheckpointError, match="missing: final_conv"):
        to_ours(listed, theirs, expected)


def test_what_comes_over_is_contiguous_float32():
    listed, expected, theirs = blank(NAME)
    for leaf in jax.tree.leaves(to_ours(listed, theirs, expected)):
        assert leaf.flags.c_contiguous
        assert leaf.dtype == np.float32
