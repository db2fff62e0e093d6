"""Global 2-D self-attention with decomposed relative positions, the paper's MHSA layer."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bottleneck_transformer_flax.axes import Array, Float
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.layers.attention_backends.choice import BACKENDS
from bottleneck_transformer_flax.layers.attention_backends.reference import attention_logits
from bottleneck_transformer_flax.layers.remat import SAVED
from bottleneck_transformer_flax.layers.sharding import sharded_by_batch


class Projections(NamedTuple):
    """The arguments of an attention backend, in order."""

    query: Float[Array, "b h w n d"]
    key: Float[Array, "b h w n d"]
    value: Float[Array, "b h w n v"]
    height_table: Float[Array, "height_rows d"]
    width_table: Float[Array, "width_rows d"]


class AttentionMaps(NamedTuple):
    """What every head attends to from every query position, over all key positions.

    Attributes:
        weights: softmax of the sum of both logits; each query's weights sum to 1 over the keys.
        content_logits: q·kᵀ.
        position_logits: q·rᵀ.
    """

    weights: Float[Array, "b n h w key_h key_w"]
    content_logits: Float[Array, "b n h w key_h key_w"]
    position_logits: Float[Array, "b n h w key_h key_w"]


class RelativeSelfAttention(nn.Module):
    """Global self-attention on a grid, by content and by relative position.

    ``softmax(q·kᵀ + q·rᵀ) · v`` with ``q = W_q x · d^-½``, jointly over all h·w keys (arXiv
    2101.11605, figure 4). There is no output projection, and no bias unless the values hold a
    folded batch norm. The relative tables start with standard deviation d^-½, which the authors'
    code passes as their mean by mistake.

    The input that initialises the layer fixes the size of the grid.

    Attributes:
        head_dim: size of one head of the values; the output has num_heads · head_dim features.
        query_key_dim: size of one head of queries and keys, d; None for ``head_dim``.
        scaled_positions: whether the position term uses the scaled queries, as in the paper, or
            ``W_q x``, as in timm's models.
        value_bias: whether the values have a bias. Each query's weights sum to 1, so it is a bias
            of the output too.
        backend: name of the attention backend, a key of ``BACKENDS``.
    """

    num_heads: int
    head_dim: int
    query_key_dim: int | None = None
    scaled_positions: bool = True
    value_bias: bool = False
    dtype: Any = jnp.float32
    backend: str = "auto"

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w features"]:
        """Attend over all positions.

        Raises:
            ConfigError: when the variables are for a grid of another size.
        """
        b, h, w, _ = x.shape
        attend = sharded_by_batch(BACKENDS[self.backend])
        output = checkpoint_name(attend(*self.project(x)), SAVED)
        return output.reshape(b, h, w, self.num_heads * self.head_dim)

    def maps(self, x: Float[Array, "b h w c"]) -> "AttentionMaps":
        """Where each position of ``x`` attends to, and why, in float32."""
        query, key, _, height_table, width_table = self.project(x)

        def compute(query: Array, *others: Array) -> AttentionMaps:
            b, h, w, n, _ = query.shape
            content, position = attention_logits(query, *others)
            maps = jax.nn.softmax(content + position, axis=-1), content, position
            return AttentionMaps(*(each.reshape(b, n, h, w, h, w) for each in maps))

        return sharded_by_batch(compute)(query, key, height_table, width_table)

    @nn.compact
    def project(self, x: Float[Array, "b h w c"]) -> Projections:
        """Project ``x`` to scaled queries, keys and values, and return them with the tables."""
        _, h, w, _ = x.shape
        d = self.query_key_dim or self.head_dim
        query, key, value = (
            checkpoint_name(
                nn.DenseGeneral(
                    (self.num_heads, size),
                    use_bias=self.value_bias and name == "value",
                    dtype=self.dtype,
                    kernel_init=nn.initializers.normal(0.01),
                    dot_general=_matrix_product,
                    name=name,
                )(x),
                SAVED,
            )
            for name, size in (("query", d), ("key", d), ("value", self.head_dim))
        )
        self._check_grid(h, w)
        init = nn.initializers.normal(d**-0.5)
        height_table = self.param("relative_height", init, (2 * h - 1, d), jnp.float32)
        width_table = self.param("relative_width", init, (2 * w - 1, d), jnp.float32)
        # Scaling the tables undoes the scale of the queries, so one attention function serves both.
        table_scale = 1.0 if self.scaled_positions else d**0.5
        return Projections(
            query * d**-0.5,
            key,
            value,
            (height_table * table_scale).astype(self.dtype),
            (width_table * table_scale).astype(self.dtype),
        )

    def _check_grid(self, h: int, w: int) -> None:
        if not self.has_variable("params", "relative_height"):
            return
        rows: list[int] = [
            self.get_variable("params", name).shape[0]
            for name in ("relative_height", "relative_width")
        ]
        if rows != [2 * h - 1, 2 * w - 1]:
            made_for = " × ".join(str((count + 1) // 2) for count in rows)
            raise ConfigError(
                f"the input gives an attention grid of {h} × {w} positions, but the variables "
                f"hold relative tables for {made_for}; pass images of the original size, or call "
                "resize_relative_positions(model, variables, image_size) once"
            )


@sharded_by_batch
def _matrix_product(
    x: Float[Array, "b h w c"], kernel: Float[Array, "c n d"], *_: Any, **__: Any
) -> Float[Array, "b h w n d"]:
    """One product of two matrices, whose gradients need no transposes from XLA on CPU."""
    return (x.reshape(-1, x.shape[-1]) @ kernel.reshape(x.shape[-1], -1)).reshape(
        *x.shape[:-1], *kernel.shape[1:]
    )
