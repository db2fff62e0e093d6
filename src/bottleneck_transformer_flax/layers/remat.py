"""What the backward pass finds in memory, and what it computes again."""

from typing import Any, cast

import flax.linen as nn
import jax

from bottleneck_transformer_flax.axes import Array, Float

KEPT = "kept for the backward pass"
"""The name of what takes long to compute: results of convolutions, products and attention.

All between them (norms, activations) is computed again in the backward pass, which takes less time
than writing it to memory and reading it back, and less than half of the memory.
"""
_KEPT_TOO = ("reduce_sum", "dot_product_attention_fwd_wrapper")
"""Primitives that give little and read much, such as a batch norm's sums over the positions; and
cuDNN's attention, whose gradient needs what else it gives beside its output.
"""


def in_less_memory(
    part: nn.Module, x: Float[Array, "b h w c"], *, keep_nothing: bool = False
) -> Float[Array, "b out_h out_w out_c"]:
    """``part(x, train=True)``, of which the backward pass computes some again.

    Args:
        part: a part of a network, bound.
        x: its input, which is kept in any case.
        keep_nothing: whether all is computed again, else what is not ``KEPT``.
    """

    def forward(part: nn.Module, x: Array) -> Array:
        return cast(Array, part(x, train=True))

    policies = jax.checkpoint_policies
    policy = policies.save_from_both_policies(policies.save_only_these_names(KEPT), _is_kept_too)
    return nn.remat(forward, policy=None if keep_nothing else policy)(part, x)


def _is_kept_too(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in _KEPT_TOO
