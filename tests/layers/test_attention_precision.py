"""bfloat16 attention: the logits and the softmax are float32."""

import jax
import jax.numpy as jnp
import numpy as np

from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.layers.attention_backends.reference import (
    attention_weights,
    reference_attention,
)
from reference import attention as oracle
from reference.variables import random_images, random_variables


def test_logits_that_bfloat16_cannot_tell_apart_are_told_apart():
    """Logits 256 … 261 are 256, 256, 258, 260, 260, 260 in bfloat16; every input is exact."""
    w = 6
    query = jnp.broadcast_to(jnp.array([16.0, 1.0]), (1, 1, w, 1, 2)).astype(jnp.bfloat16)
    key = jnp.stack([jnp.full(w, 16.0), jnp.arange(w, dtype=jnp.float32)], axis=-1)
    key = key.reshape(1, 1, w, 1, 2).astype(jnp.bfloat16)
    tables = (jnp.zeros((1, 2), jnp.bfloat16), jnp.zeros((2 * w - 1, 2), jnp.bfloat16))
    weights = attention_weights(query, key, *tables)
    assert weights.dtype == jnp.float32
    expected = np.exp(np.arange(w)) / np.exp(np.arange(w)).sum()
    np.testing.assert_allclose(weights[0, 0], np.tile(expected, (w, 1)), atol=1e-6)


def test_the_position_term_is_not_rounded_to_bfloat16():
    """A position term of 256 plus the offset, and its sum with a content term of 1, are exact."""
    w = 5
    query = jnp.broadcast_to(jnp.array([16.0, 1.0]), (1, 1, w, 1, 2)).astype(jnp.bfloat16)
    key = jnp.broadcast_to(jnp.array([0.0, 1.0]), query.shape).astype(jnp.bfloat16)
    offsets = jnp.arange(2 * w - 1, dtype=jnp.float32) - (w - 1)
    width_table = jnp.stack([jnp.full(2 * w - 1, 16.0), offsets], axis=-1).astype(jnp.bfloat16)
    tables = (jnp.zeros((1, 2), jnp.bfloat16), width_table)
    weights = attention_weights(query, key, *tables)
    expected = oracle.weights(query, key, *tables).reshape(w, w)
    np.testing.assert_allclose(weights[0, 0], expected, atol=1e-6)


def test_the_layer_in_bfloat16_is_near_float32():
    x = random_images(2, 5, 4, 16)
    exact = RelativeSelfAttention(num_heads=2, head_dim=16)
    rounded = RelativeSelfAttention(num_heads=2, head_dim=16, dtype=jnp.bfloat16)
    variables = random_variables(jax.eval_shape(exact.init, jax.random.key(0), x))
    made = jax.eval_shape(rounded.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
    output = rounded.apply(variables, x.astype(jnp.bfloat16))
    weights = rounded.apply(variables, x.astype(jnp.bfloat16), method="weights")
    assert output.dtype == jnp.bfloat16
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(
        output.astype(jnp.float32), exact.apply(variables, x), rtol=0, atol=0.05
    )
    np.testing.assert_allclose(
        weights, exact.apply(variables, x, method="weights"), rtol=0, atol=0.03
    )


def test_large_logits_overflow_nothing():
    grid = (1, 2, 3, 1, 4)
    query, key = jnp.full(grid, 1e4), jnp.ones(grid).at[0, 1, 2].set(2.0)
    value = jnp.arange(24, dtype=jnp.float32).reshape(grid)
    tables = (jnp.zeros((3, 4)), jnp.zeros((5, 4)))
    output = reference_attention(query, key, value, *tables)
    np.testing.assert_allclose(output, np.broadcast_to(value[0, 1, 2], grid), atol=1e-5)


def test_the_queries_scale_follows_the_head_size():
    """With one key kernel and no position, the logits of a head of d copies grow by √d."""
    x = random_images(1, 2, 2, 3)
    entropies = []
    for head_dim in (1, 4, 16):
        layer = RelativeSelfAttention(num_heads=1, head_dim=head_dim)
        kernel = jnp.broadcast_to(jnp.array([0.5, -0.3, 0.8])[:, None, None], (3, 1, head_dim))
        parameters = {name: {"kernel": kernel} for name in ("query", "key", "value")}
        parameters |= {
            "relative_height": jnp.zeros((3, head_dim)),
            "relative_width": jnp.zeros((3, head_dim)),
        }
        weights = layer.apply({"params": parameters}, x, method="weights")
        entropies.append(np.log(np.asarray(weights, np.float64)))
    for log_weights, factor in zip(entropies[1:], (2, 4), strict=True):
        spread = log_weights - log_weights.mean(axis=-1, keepdims=True)
        single = entropies[0] - entropies[0].mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(spread, factor * single, atol=1e-4)
