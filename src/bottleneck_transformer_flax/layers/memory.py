"""What the backward pass finds in memory, and what it computes again."""

from typing import cast

import flax.linen as nn
import jax

from bottleneck_transformer_flax.axes import Array, Float

KEPT = "kept for the backward pass"
"""The name of what takes long to compute: results of convolutions, products and attention.

All between them (norms, activations, sums) is computed again in the backward pass, which takes less
time than writing it to memory and reading it back, and less than half of the memory.
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

    policy = None if keep_nothing else jax.checkpoint_policies.save_only_these_names(KEPT)
    return nn.remat(forward, policy=policy)(part, x)
