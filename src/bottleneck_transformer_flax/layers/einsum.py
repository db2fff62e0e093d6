"""Matrix products of half-precision arrays whose results stay float32."""

from functools import partial

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def einsum_float32(spec: str, left: Array, right: Array) -> Array:
    """``jnp.einsum`` of two arrays of one dtype, accumulated and returned in float32.

    Its gradients multiply arrays of that dtype too. Those of ``preferred_element_type`` alone would
    multiply float32 with bfloat16, which no accelerator does at the speed of bfloat16.
    """
    return jnp.einsum(spec, left, right, preferred_element_type=jnp.float32)


@einsum_float32.defjvp
def _tangent(
    spec: str, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (left, right), (left_tangent, right_tangent) = primals, tangents
    tangent = jnp.einsum(spec, left_tangent, right) + jnp.einsum(spec, left, right_tangent)
    return einsum_float32(spec, left, right), tangent.astype(jnp.float32)
