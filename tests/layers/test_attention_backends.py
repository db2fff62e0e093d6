"""Every way to compute attention gives the reference's values and gradients."""

from types import SimpleNamespace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bottleneck_transformer_flax.layers.attention_backends import blockwise as blockwise_attention
from bottleneck_transformer_flax.layers.attention_backends import choice as attention_backends
from bottleneck_transformer_flax.layers.attention_backends.choice import BACKENDS
from bottleneck_transformer_flax.layers.attention_backends.fused import max_fused_head_dim
from bottleneck_transformer_flax.layers.attention_backends.reference import reference_attention
from bottleneck_transformer_flax.models.execution import AttentionBackend
from reference import attention as oracle

NAMES = ("query", "key", "value", "height_table", "width_table")
OTHERS = [name for name in BACKENDS if name != "reference"]


def draw(h, w, heads=2, head_dim=5, value_dim=5, batch=2, dtype=jnp.float32):
    """Scaled queries, keys, values and both tables, sharp enough that the weights differ."""
    random = np.random.default_rng(h * 100 + w)
    grid = (batch, h, w, heads)
    shapes = ((*grid, head_dim), (*grid, head_dim), (*grid, value_dim))
    shapes += ((2 * h - 1, head_dim), (2 * w - 1, head_dim))
    return tuple(jnp.asarray(random.normal(size=shape), dtype) for shape in shapes)


def value_and_gradients(function, arrays):
    """The output, and the gradients of its product with something random."""
    probe = np.random.default_rng(9).normal(size=arrays[2].shape).astype(np.float32)

    def objective(*arrays):
        output = function(*arrays)
        return jnp.sum(output.astype(jnp.float32) * probe), output

    (_, output), gradients = jax.jit(jax.value_and_grad(objective, argnums=range(5), has_aux=True))(
        *arrays
    )
    return output, gradients


def assert_agree(arrays, *functions):
    """Within 1e-5 of the scale of each, differentiated or not."""
    expected, expected_gradients = value_and_gradients(reference_attention, arrays)
    for function in functions:
        output, gradients = value_and_gradients(function, arrays)
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(jax.jit(function)(*arrays), expected, rtol=0, atol=1e-5)
        for name, came, wanted in zip(NAMES, gradients, expected_gradients, strict=True):
            assert came.dtype == wanted.dtype
            scale = max(1, np.abs(wanted).max())
            np.testing.assert_allclose(
                came / scale, wanted / scale, rtol=0, atol=1e-5, err_msg=name
            )


def test_the_names_are_those_of_the_config():
    assert get_args(AttentionBackend) == tuple(BACKENDS)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(h=st.integers(1, 9), w=st.integers(1, 9), heads=st.integers(1, 3), size=st.integers(1, 9))
@example(h=1, w=1, heads=2, size=4)
@example(h=1, w=8, heads=1, size=3)
@example(h=7, w=1, heads=3, size=8)
@example(h=5, w=8, heads=2, size=16)
def test_values_and_gradients_are_the_references(h, w, heads, size):
    arrays = draw(h, w, heads=heads, head_dim=size, value_dim=size)
    assert_agree(arrays, *map(BACKENDS.get, OTHERS))


@pytest.mark.parametrize(("head_dim", "value_dim"), [(3, 8), (16, 4)])
def test_values_of_another_size_than_queries(head_dim, value_dim):
    arrays = draw(4, 3, head_dim=head_dim, value_dim=value_dim)
    assert_agree(arrays, *map(BACKENDS.get, OTHERS))


@pytest.mark.parametrize("weights", [1, 20, 35, 64, 100, 300, 10_000])
def test_blocks_of_any_size(monkeypatch, weights):
    """From one query a block to all, the last block full or not; from one head at once to all."""
    monkeypatch.setattr(blockwise_attention, "_MAX_WEIGHTS", weights)
    # A function of its own, or what was compiled for other blocks would serve again.
    assert_agree(draw(5, 2), lambda *arrays: blockwise_attention.blockwise_attention(*arrays))


def test_all_heads_at_once_where_no_cores_share_a_product(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    function = blockwise_attention.blockwise_attention
    assert_agree(draw(5, 2), lambda *arrays: function(*arrays))
    text = str(jax.make_jaxpr(lambda *arrays: function(*arrays))(*draw(5, 2)))
    assert text.count("scan") == 1


def test_many_positions():
    """More than one block of queries, the last of them filled up; "auto" computes by blocks."""
    h, w = 41, 43
    assert h * w >= attention_backends.MANY_POSITIONS
    arrays = draw(h, w, heads=1, head_dim=8, value_dim=8, batch=1)
    blocks = blockwise_attention._split(jnp.zeros((h * w, 8)))
    assert len(blocks) > 1 and blocks.shape[0] * blocks.shape[1] > h * w
    assert_agree(arrays, *map(BACKENDS.get, OTHERS))


@pytest.mark.parametrize("backend", OTHERS)
def test_the_oracle(backend):
    arrays = draw(3, 4, batch=1)
    expected = oracle.attend(*oracle.as_float64(*arrays))
    np.testing.assert_allclose(BACKENDS[backend](*arrays), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", OTHERS)
def test_large_logits_overflow_nothing(backend):
    grid = (1, 2, 3, 1, 4)
    query, key = jnp.full(grid, 1e4), jnp.ones(grid).at[0, 1, 2].set(2.0)
    value = jnp.arange(24, dtype=jnp.float32).reshape(grid)
    tables = (jnp.zeros((3, 4)), jnp.zeros((5, 4)))
    output = BACKENDS[backend](query, key, value, *tables)
    np.testing.assert_allclose(output, np.broadcast_to(value[0, 1, 2], grid), atol=1e-5)


@pytest.mark.parametrize("backend", OTHERS)
def test_bfloat16_is_as_near_to_float32_as_the_references(backend):
    exact = draw(4, 6, head_dim=16, value_dim=16)
    rounded = tuple(array.astype(jnp.bfloat16) for array in exact)
    exact_output, exact_gradients = value_and_gradients(reference_attention, exact)
    output, gradients = value_and_gradients(BACKENDS[backend], rounded)
    their_output, their_gradients = value_and_gradients(reference_attention, rounded)
    assert {array.dtype for array in (output, *gradients)} == {jnp.dtype(jnp.bfloat16)}
    for came, theirs, expected in zip(
        (output, *gradients),
        (their_output, *their_gradients),
        (exact_output, *exact_gradients),
        strict=True,
    ):
        error = np.abs(came.astype(jnp.float32) - expected).max()
        allowed = np.abs(theirs.astype(jnp.float32) - expected).max()
        assert error <= 2 * allowed


def test_what_is_fastest_depends_on_the_machine(monkeypatch):
    """No kernel of another machine's is taken, and small grids keep their weights in training."""
    taken = []

    def spy(name):
        def function(*arrays):
            taken.append(name)
            return reference_attention(*arrays)

        return function

    for name in ("reference_attention", "blockwise_attention", "fused_attention"):
        monkeypatch.setattr(attention_backends, name, spy(name))
    small, large = draw(3, 3), draw(40, 40, heads=1, batch=1)
    # Queries of 5 with rows and columns: 16 over the small grid, 88 over the large one.
    cases = {
        ("cpu", 0): ("blockwise_attention", "blockwise_attention"),
        ("gpu", 0): ("reference_attention", "blockwise_attention"),
        ("gpu", 16): ("fused_attention", "blockwise_attention"),
        ("gpu", 88): ("fused_attention", "fused_attention"),
    }
    for (machine, longest), expected in cases.items():
        monkeypatch.setattr(jax, "default_backend", lambda machine=machine: machine)
        monkeypatch.setattr(
            attention_backends, "max_fused_head_dim", lambda dtype, longest=longest: longest
        )
        taken.clear()
        for arrays in (small, large):
            attention_backends.fastest_attention(*arrays)
        assert tuple(taken) == expected
    monkeypatch.undo()
    text = str(jax.make_jaxpr(jax.grad(lambda *a: BACKENDS["auto"](*a).sum()))(*small))
    assert "scan" not in text
    assert "scan" in str(jax.make_jaxpr(BACKENDS["auto"])(*small))


@pytest.mark.parametrize(
    ("device", "dtype", "longest"),
    [
        ("cuda 8.0", jnp.bfloat16, 128),
        ("cuda 8.9", jnp.float16, 128),
        ("cuda 9.0", jnp.bfloat16, 256),
        ("cuda 9.0", jnp.float32, 0),
        ("cuda 10.0", jnp.bfloat16, 128),
        ("cuda 7.5", jnp.float16, 0),
        ("rocm gfx90a", jnp.bfloat16, 0),
        ("cpu -", jnp.bfloat16, 0),
    ],
)
def test_the_longest_head_of_a_fused_kernel(monkeypatch, device, dtype, longest):
    platform, capability = device.split()
    client = SimpleNamespace(platform_version=f"PJRT {platform} 12090")
    devices = [SimpleNamespace(client=client, compute_capability=capability)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert max_fused_head_dim(jnp.dtype(dtype)) == longest


@pytest.mark.parametrize(
    ("side", "forward_megabytes", "both_megabytes"),
    [(64, 48, 128), pytest.param(128, 1000, 1000, marks=pytest.mark.slow)],
)
def test_memory_is_linear_in_the_positions(side, forward_megabytes, both_megabytes):
    """With four heads of 128: XLA's own count of temporaries."""
    shapes = [(1, side, side, 4, 128)] * 3 + [(2 * side - 1, 128)] * 2
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def megabytes(function):
        compiled = jax.jit(function).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes / 1e6

    function = BACKENDS["blockwise"]
    gradient = jax.grad(lambda *arrays: jnp.sum(function(*arrays) ** 2), argnums=range(5))
    forward, both = megabytes(function), megabytes(gradient)
    print(f"temporaries: {forward:.0f} MB forward, {both:.0f} MB forward and backward")
    assert forward <= forward_megabytes
    assert both <= both_megabytes
