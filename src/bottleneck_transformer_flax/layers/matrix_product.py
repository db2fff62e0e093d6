"""Matrix products of half-precision arrays whose results stay float32."""

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array


@jax.custom_jvp
def matmul_float32(left: Array, right: Array) -> Array:
    """``jnp.matmul`` of two arrays of one dtype, accumulated and returned in float32.

    Its gradients multiply arrays of that dtype too. Those of ``preferred_element_type`` alone would
    multiply float32 with bfloat16, which no accelerator does at the speed of bfloat16.
    """
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


@matmul_float32.defjvp
def _tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (left, right), (left_tangent, right_tangent) = primals, tangents
    tangent = jnp.matmul(left_tangent, right) + jnp.matmul(left, right_tangent)
    return matmul_float32(left, right), tangent.astype(jnp.float32)
