"""The state of a training run: everything that a train step changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from bottleneck_transformer_flax.axes import Array, Bool, Int

Variables = dict[str, Any]


class TrainState(flax.struct.PyTreeNode):
    """Everything that training changes.

    Attributes:
        step: optimizer steps taken so far.
        variables: parameters and batch statistics.
        average: exponential moving average of the variables; None where the run keeps none.
        optimizer_state: state of the optax optimizer.
    """

    step: Int[Array, ""]
    variables: Variables
    average: Variables | None
    optimizer_state: Any

    @property
    def inference_variables(self) -> Variables:
        """The variables to score and to save: the average where there is one."""
        return self.variables if self.average is None else self.average


def create_state(
    variables: Variables, optimizer: optax.GradientTransformation, *, average: bool
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        # A copy: the step donates its state, and no buffer can be donated twice.
        average=jax.tree.map(jnp.copy, variables) if average else None,
        optimizer_state=optimizer.init(variables["params"]),
    )


def updated_average(
    state: TrainState, variables: Variables, ema_decay: float | None
) -> Variables | None:
    """The state's average after a step to new variables.

    average ← average + (1 − d)(variables − average), d = min(ema_decay, (1 + n) / (10 + n)) after
    n steps: a constant decay would long remember the random start.
    """
    if state.average is None or ema_decay is None:
        return None
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    # In this form what does not change, such as a frozen stage, stays the same to the bit.
    average: Variables = jax.tree.map(
        lambda old, new: old + (1 - decay) * (new - old), state.average, variables
    )
    return average


@jax.jit
def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether no array of a tree holds a NaN or an infinity."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
