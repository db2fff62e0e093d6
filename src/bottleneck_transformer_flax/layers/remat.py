"""Rematerialisation: which residuals the forward pass saves, and which the backward recomputes."""

from typing import Any, cast

import flax.linen as nn
import jax

from bottleneck_transformer_flax.axes import Array, Float

SAVED = "saved residual"
"""Name of every residual that is slow to compute: outputs of convolutions, products and attention.

Recomputing the rest (norms, activations) takes less time than writing it to memory and reading it
back, and halves the memory.
"""
_SAVED_PRIMITIVES = ("reduce_sum", "dot_product_attention_fwd_wrapper")
"""Primitives whose outputs are saved too: a batch norm's sums, which are small but read much, and
cuDNN's attention, whose gradient needs more than its output.
"""
_SMALL_INPUT = 2**17
"""Values of an image up to which a part saves all residuals: caches hold them, so that recomputing
takes a tenth of the step, and their memory is little.
"""


def rematerialise(
    part: nn.Module, x: Float[Array, "b h w c"], *, save_nothing: bool = False
) -> Float[Array, "b out_h out_w out_c"]:
    """``part(x, train=True)``, whose backward pass recomputes some or all residuals.

    Args:
        part: a bound module.
        x: its input, which is always saved.
        save_nothing: whether all residuals are recomputed, or only those not named ``SAVED``, and
            of small images none.
    """
    if not save_nothing and x.size <= _SMALL_INPUT * x.shape[0]:
        return cast(Array, part(x, train=True))

    def forward(part: nn.Module, x: Array) -> Array:
        return cast(Array, part(x, train=True))

    policies = jax.checkpoint_policies
    policy = policies.save_from_both_policies(policies.save_only_these_names(SAVED), _is_saved)
    return nn.remat(forward, policy=None if save_nothing else policy)(part, x)


def _is_saved(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in _SAVED_PRIMITIVES
