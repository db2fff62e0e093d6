"""How variables start: the paper's initialisers, and residual branches that are nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import BoTNetConfig

HEAD_DIM = 32


CONFIG = BoTNetConfig(
    stage_sizes=(1, 1, 1, 1), initial_filters=16, head_dim=HEAD_DIM, se_ratio=0.25
)


@pytest.fixture(scope="module")
def initialised():
    """Wide enough for standard deviations to be measured."""
    return initialise(CONFIG)


def initialise(config):
    model = BoTNet(config=config)
    init = jax.jit(model.init)
    variables = init(jax.random.key(3), jnp.zeros((1, 256, 320, 3)))
    return {
        collection: {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(tree).items()}
        for collection, tree in variables.items()
    }


def assert_normal(path, values, std, mean=0.0):
    """Mean and standard deviation within five of their own standard errors."""
    error = std / np.sqrt(values.size)
    assert abs(values.mean() - mean) < 5 * error, f"{path}: mean {values.mean()}"
    assert abs(values.std() - std) < 5 * error / np.sqrt(2) + 1e-7, f"{path}: std {values.std()}"


def test_convolutions_have_variance_two_over_fan_in(initialised):
    kernels = {p: v for p, v in initialised["params"].items() if p.endswith("convolution/kernel")}
    assert len(kernels) == 1 + 3 * 4 + 3  # the stem; three convolution blocks; one BoT block
    for path, kernel in kernels.items():
        fan_in = np.prod(kernel.shape[:3])
        assert_normal(path, kernel, np.sqrt(2 / fan_in))
        # A normal, not a truncated one: some values lie beyond two standard deviations.
        assert np.abs(kernel).max() > 2.5 * np.sqrt(2 / fan_in), path


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_projections_have_a_standard_deviation_of_a_hundredth(initialised, name):
    path = f"c5/block_1/attention/{name}/kernel"
    assert_normal(path, initialised["params"][path], 0.01)


@pytest.mark.parametrize("axis", ["height", "width"])
def test_relative_tables_are_drawn_around_zero(initialised, axis):
    path = f"c5/block_1/attention/relative_{axis}"
    table = initialised["params"][path]
    assert table.shape == (2 * {"height": 16, "width": 20}[axis] - 1, HEAD_DIM)
    assert_normal(path, table, HEAD_DIM**-0.5)


@pytest.mark.parametrize("head_dim", [16, 128])
def test_relative_tables_follow_the_head_size(head_dim):
    layer = RelativeSelfAttention(num_heads=4, head_dim=head_dim)
    variables = layer.init(jax.random.key(5), jnp.zeros((1, 30, 20, 3)))
    for name in ("relative_height", "relative_width"):
        assert_normal(name, np.asarray(variables["params"][name]), head_dim**-0.5)


def test_norms_start_as_identity_and_the_last_of_a_branch_as_nothing(initialised):
    for path, values in initialised["params"].items():
        if path.endswith("scale"):
            zero = path.endswith("expand/norm/scale")
            np.testing.assert_array_equal(values, 0.0 if zero else 1.0, err_msg=path)
        if path.endswith("bias"):
            np.testing.assert_array_equal(values, 0.0, err_msg=path)
    for path, values in initialised["batch_stats"].items():
        np.testing.assert_array_equal(values, float(path.endswith("var")), err_msg=path)


def test_residual_branches_may_start_as_something():
    params = initialise(CONFIG.replace(zero_residual_init=False))["params"]
    scales = {path: values for path, values in params.items() if path.endswith("scale")}
    assert any(path.endswith("expand/norm/scale") for path in scales)
    for path, values in scales.items():
        np.testing.assert_array_equal(values, 1.0, err_msg=path)


def test_different_layers_and_keys_draw_different_numbers(initialised):
    kernels = [v.ravel()[:64] for p, v in initialised["params"].items() if "attention/" in p]
    for index, kernel in enumerate(kernels):
        for other in kernels[index + 1 :]:
            assert np.abs(kernel - other).max() > 1e-3
