"""From a run's options to an optax optimizer."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.training.config import OptimizerOptions

UNDECAYED = ("scale", "bias")


def decays(path: tuple[str, ...]) -> bool:
    """Whether weight decay applies to the parameter at this path: not to norms and biases."""
    return path[-1] not in UNDECAYED


def decay_mask(params: dict[str, Any]) -> dict[str, Any]:
    """For every parameter, whether weight decay applies to it."""
    mask: dict[str, Any] = unflatten_dict({path: decays(path) for path in flatten_dict(params)})
    return mask


def learning_rate_schedule(
    options: OptimizerOptions, *, steps_per_epoch: int, epochs: int
) -> optax.Schedule:
    """Linear from 0 to the peak over the warm-up, then a cosine to 0 at the last step."""
    total_steps = steps_per_epoch * epochs
    # A run made shorter than its recipe still spends half of its steps at useful rates.
    warmup_steps = min(round(options.warmup_epochs * steps_per_epoch), total_steps // 2)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=options.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
    )


def make_optimizer(
    options: OptimizerOptions,
    schedule: optax.Schedule,
    part_rates: Mapping[str, float] = MappingProxyType({}),
) -> optax.GradientTransformation:
    """Clipping, weight decay, and SGD with momentum or AdamW.

    SGD's decay is added to the gradient, as in the paper's recipes; AdamW's is decoupled.

    Args:
        options: of the run.
        schedule: the learning rate by step.
        part_rates: of the model's parts, such as "c2" or "head", the learning rate as a fraction
            of the schedule's where it is not all of it; a part with 0 stays as it is.
    """
    optimizer = _whole_model_optimizer(options, schedule)
    if not part_rates:
        return optimizer

    def scale(updates: dict[str, Any], _: Any) -> dict[str, Any]:
        return {
            part: optax.tree.scale(part_rates.get(part, 1.0), of_part)
            for part, of_part in updates.items()
        }

    return optax.chain(optimizer, optax.stateless(scale))


def _whole_model_optimizer(
    options: OptimizerOptions, schedule: optax.Schedule
) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    if options.optimizer == "adamw":
        return optax.chain(
            clip, optax.adamw(schedule, weight_decay=options.weight_decay, mask=decay_mask)
        )
    return optax.chain(
        clip,
        optax.add_decayed_weights(options.weight_decay, mask=decay_mask),
        optax.sgd(schedule, momentum=options.momentum, nesterov=options.nesterov),
    )
