"""The variables that a run starts from."""

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.axes import Array
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.models.surgery import Variables, replace_head
from bottleneck_transformer_flax.training.setup import Plan


def initial_variables(plan: Plan) -> Variables:
    """Those of the pretrained model, with a head for the plan's classes, or random ones.

    They follow from the plan alone: a run that is begun again begins with the same.
    """
    key = jax.random.key(plan.config.seed)
    if plan.pretrained is None:
        return _random_variables(plan, key)
    return _pretrained_variables(plan, plan.pretrained, key)


def _random_variables(plan: Plan, key: Array) -> Variables:
    height, width = plan.preprocessing.size
    images = jnp.zeros((1, height, width, plan.model.config.image_channels))
    # It runs once: to compile it well would take longer than all it computes.
    compiler_options = {"xla_backend_optimization_level": 0}
    return jax.jit(plan.model.init, compiler_options=compiler_options)(key, images)


def _pretrained_variables(plan: Plan, pretrained: Pretrained, key: Array) -> Variables:
    model, variables, _, _ = pretrained
    if not plan.keeps_head:
        num_classes = plan.model.config.num_classes
        _, variables = replace_head(model, variables, num_classes=num_classes, rng=key)
    # Copies: the step uses up its state, and the plan keeps what it has.
    return jax.tree.map(jnp.copy, variables)
