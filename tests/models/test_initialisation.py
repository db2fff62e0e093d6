"""How variables start: the paper's initialisers, and residual branches that are nothing."""

import functools

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


@functools.cache
def initialised(zero_residual_init=True):
    """Variables by path; wide enough for standard deviations to be measured."""
    model = BoTNet(config=CONFIG.replace(zero_residual_init=zero_residual_init))
    variables = jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 256, 320, 3)))
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(variables, sep="/").items()}


def assert_normal(path, values, std, mean=0.0):
    """Mean and standard deviation within five of their own standard errors."""
    error = std / np.sqrt(values.size)
    assert abs(values.mean() - mean) < 5 * error, f"{path}: mean {values.mean()}"
    assert abs(values.std() - std) < 5 * error / np.sqrt(2) + 1e-7, f"{path}: std {values.std()}"


def test_convolutions_have_variance_two_over_fan_in():
    kernels = {p: v for p, v in initialised().items() if p.endswith("convolution/kernel")}
    assert len(kernels) == 1 + 3 * 4 + 3  # the stem; three convolution blocks; one BoT block
    for path, kernel in kernels.items():
        std = np.sqrt(2 / np.prod(kernel.shape[:3]))
        assert_normal(path, kernel, std)
        # A normal, not a truncated one: some values lie beyond two standard deviations.
        assert np.abs(kernel).max() > 2.5 * std, path


def test_attention_starts_small_and_its_tables_by_the_head_size():
    attention = "params/c5/block_1/attention"
    kernels = [initialised()[f"{attention}/{name}/kernel"] for name in ("query", "key", "value")]
    for index, kernel in enumerate(kernels):
        assert_normal(attention, kernel, 0.01)
        assert np.abs(kernel - kernels[index - 1]).max() > 1e-3, "layers draw their own numbers"
    for name, length in (("height", 16), ("width", 20)):
        table = initialised()[f"{attention}/relative_{name}"]
        assert table.shape == (2 * length - 1, HEAD_DIM)
        assert_normal(name, table, HEAD_DIM**-0.5)
    for head_dim in (16, 128):
        layer = RelativeSelfAttention(num_heads=4, head_dim=head_dim)
        params = layer.init(jax.random.key(5), jnp.zeros((1, 30, 20, 3)))["params"]
        for name in ("relative_height", "relative_width"):
            assert_normal(name, np.asarray(params[name]), head_dim**-0.5)


@pytest.mark.parametrize("zero_residual_init", [True, False])
def test_norms_start_as_identity_and_the_last_of_a_branch_as_zero_where_asked(zero_residual_init):
    last = 0.0 if zero_residual_init else 1.0
    for path, values in initialised(zero_residual_init).items():
        if path.endswith(("scale", "bias", "mean", "var")):
            start = 1.0 if path.endswith(("scale", "var")) else 0.0
            expected = last if path.endswith("expand/norm/scale") else start
            np.testing.assert_array_equal(values, expected, err_msg=path)
