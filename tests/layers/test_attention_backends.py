"""Every attention backend computes the reference's function, and "auto" chooses between them."""

from types import SimpleNamespace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottleneck_transformer_flax.layers.attention_backends import blockwise, choice
from bottleneck_transformer_flax.layers.attention_backends.choice import (
    BACKENDS,
    MANY_POSITIONS,
    fastest_attention,
)
from bottleneck_transformer_flax.layers.attention_backends.fused import max_fused_head_dim
from bottleneck_transformer_flax.layers.attention_backends.reference import reference_attention
from bottleneck_transformer_flax.models.execution import AttentionBackend
from bottleneck_transformer_flax.models.flops import equations
from reference.attention import random_arguments

ARGUMENTS = random_arguments(5, 2, batch=2)
NAMES = ("query", "key", "value", "height_table", "width_table")


def value_and_gradients(function):
    """(arrays) → the output, and the gradients of its product with something random."""

    def objective(*arrays):
        output = function(*arrays)
        probe = np.random.default_rng(9).normal(size=output.shape).astype(np.float32)
        return jnp.sum(output.astype(jnp.float32) * probe), output

    return jax.value_and_grad(objective, argnums=range(5), has_aux=True)


def of_all(functions, arrays):
    """What each gives with its gradients, compiled together."""
    return jax.jit(lambda *arrays: [value_and_gradients(f)(*arrays) for f in functions])(*arrays)


def assert_agree(arrays, *functions):
    """Within 1e-5 of the reference's scale."""
    (((_, expected), expected_gradients), *results) = of_all(
        (reference_attention, *functions), arrays
    )
    for (_, output), gradients in results:
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
        for name, gradient, wanted in zip(NAMES, gradients, expected_gradients, strict=True):
            assert gradient.dtype == wanted.dtype
            scale = max(1, np.abs(wanted).max())
            np.testing.assert_allclose(
                gradient / scale, wanted / scale, rtol=0, atol=1e-5, err_msg=name
            )


def test_the_names_are_those_of_execution():
    assert get_args(AttentionBackend) == tuple(BACKENDS)


@pytest.mark.parametrize(
    ("h", "w", "heads", "head_dim", "value_dim"),
    [(1, 8, 1, 3, 8), (7, 1, 3, 16, 4), (1, 1, 2, 1, 1), (5, 9, 2, 9, 9)],
)
def test_values_and_gradients_are_the_references(h, w, heads, head_dim, value_dim):
    arrays = random_arguments(h, w, heads, head_dim, value_dim, batch=2)
    assert_agree(arrays, *BACKENDS.values())
    # "auto" computes otherwise where nothing is differentiated.
    output, expected = jax.jit(lambda *a: (fastest_attention(*a), reference_attention(*a)))(*arrays)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", [1, 35, 300])
def test_blocks_of_any_size(monkeypatch, weights):
    """From one query a block to all, the last block full or not; from one head at once to all."""
    monkeypatch.setattr(blockwise, "_MAX_WEIGHTS", weights)
    # A function of its own, or what was traced for other blocks would serve again.
    assert_agree(ARGUMENTS, lambda *arrays: blockwise.blockwise_attention(*arrays))


def test_all_heads_at_once_where_no_cores_share_a_product(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    function = blockwise.blockwise_attention
    assert_agree(ARGUMENTS, lambda *arrays: function(*arrays))
    text = str(jax.make_jaxpr(lambda *arrays: function(*arrays))(*ARGUMENTS))
    assert text.count("scan") == 1


def test_large_logits_overflow_nothing():
    grid = (1, 2, 3, 1, 4)
    query, key = jnp.full(grid, 1e4), jnp.ones(grid).at[0, 1, 2].set(2.0)
    value = jnp.arange(24, dtype=jnp.float32).reshape(grid)
    expected = np.broadcast_to(value[0, 1, 2], grid)
    for name, function in BACKENDS.items():
        output = jax.jit(function)(query, key, value, jnp.zeros((3, 4)), jnp.zeros((5, 4)))
        np.testing.assert_allclose(output, expected, atol=1e-5, err_msg=name)


def test_bfloat16_is_as_near_to_float32_as_the_references():
    exact = random_arguments(4, 6, head_dim=16, batch=2)
    ((_, output), gradients) = of_all([reference_attention], exact)[0]
    expected = (output, *gradients)

    def errors(result):
        (_, output), gradients = result
        arrays = (output, *gradients)
        assert {array.dtype for array in arrays} == {jnp.dtype(jnp.bfloat16)}
        pairs = zip(arrays, expected, strict=True)
        return np.array([np.abs(a.astype(jnp.float32) - e).max() for a, e in pairs])

    half = tuple(array.astype(jnp.bfloat16) for array in exact)
    # The gradients of JAX's own attention promote bfloat16.
    with jax.numpy_dtype_promotion("standard"):
        results = of_all([reference_attention, *BACKENDS.values()], half)
    of_reference, *others = map(errors, results)
    for of_backend in others:
        assert (of_backend <= 2 * of_reference).all()


@pytest.mark.parametrize("backend", ["auto", "reference", "blockwise"])
def test_bfloat16_products_multiply_bfloat16_alone(backend):
    jaxpr = jax.make_jaxpr(value_and_gradients(BACKENDS[backend]))(
        *random_arguments(4, 6, dtype=jnp.bfloat16)
    )
    products = [e for e in equations(jaxpr.jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) >= 11
    for equation in products:
        assert {str(variable.aval.dtype) for variable in equation.invars} == {"bfloat16"}


def test_the_choice_is_by_platform_and_static_shapes(monkeypatch):
    """No kernel of another machine's is taken; on a CPU small grids keep weights in training."""
    small, large = random_arguments(3, 3), random_arguments(40, 40, heads=1)
    assert large[0].shape[1] * large[0].shape[2] == MANY_POSITIONS
    assert "scan" in str(jax.make_jaxpr(fastest_attention)(*small))
    gradient = jax.grad(lambda *arrays: fastest_attention(*arrays).sum())
    assert "scan" not in str(jax.make_jaxpr(gradient)(*small))
    taken = []
    for name in ("reference", "blockwise", "fused"):
        function = lambda *arrays, name=name: taken.append(name) or arrays[2]  # noqa: E731
        monkeypatch.setattr(choice, f"{name}_attention", function)
    # Queries of 5 with rows and columns: 16 over the small grid, 88 over the large one.
    for platform, max_head_dim, expected in (
        ("cpu", 0, ["blockwise", "blockwise"]),
        ("gpu", 0, ["reference", "blockwise"]),
        ("gpu", 16, ["fused", "blockwise"]),
        ("gpu", 88, ["fused", "fused"]),
    ):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        monkeypatch.setattr(choice, "max_fused_head_dim", lambda _, limit=max_head_dim: limit)
        taken.clear()
        for arrays in (small, large):
            fastest_attention(*arrays)
        assert taken == expected


@pytest.mark.parametrize(
    ("device", "dtype", "limit"),
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
def test_the_largest_head_of_a_fused_kernel(monkeypatch, device, dtype, limit):
    platform, capability = device.split()
    client = SimpleNamespace(platform_version=f"PJRT {platform} 12090")
    devices = [SimpleNamespace(client=client, compute_capability=capability)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert max_fused_head_dim(jnp.dtype(dtype)) == limit


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

    assert megabytes(BACKENDS["blockwise"]) <= forward_megabytes
    assert megabytes(value_and_gradients(BACKENDS["blockwise"])) <= both_megabytes
