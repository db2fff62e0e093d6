"""The optimizer and the learning rate schedule of a run, from its options."""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import STAGE_NAMES
from bottleneck_transformer_flax.training.config import OptimizerOptions

UNDECAYED = ("scale", "bias")
# Root mean square of a matrix's update at learning rate 1, about AdamW's in practice, so that one
# learning rate suits both (Liu et al. 2025, arXiv 2502.16982, section 2.2).
MUON_UPDATE_RMS = 0.2


def decays(path: tuple[str, ...]) -> bool:
    """Whether weight decay applies to the parameter at a path: to all but norms and biases."""
    return path[-1] not in UNDECAYED


def decay_mask(params: dict[str, Any]) -> dict[str, Any]:
    """For every parameter, whether weight decay applies to it."""
    return _by_path(lambda path, _: decays(path), params)


def matrix_axes(params: dict[str, Any]) -> dict[str, Any]:
    """For every parameter, its axes as inputs and outputs of a matrix; None where it is no matrix.

    The matrices are the kernels between the stem and the head: a convolution maps a window of
    channels to a channel (a grouped one, all groups side by side), attention the channels to all
    heads. The stem, the head, tables and vectors are left out, as Muon's author advises.
    """
    return _by_path(_matrix_axes, params)


def _by_path(function: Callable[[tuple[str, ...], Any], Any], params: dict[str, Any]) -> Any:
    """The function's value for the path and shape of every parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(tuple(step.key for step in path), leaf), params
    )


def _matrix_axes(path: tuple[str, ...], leaf: Any) -> MuonDimensionNumbers | None:
    if path[0] in ("stem", "head") or path[-1] != "kernel":
        return None
    inputs = 1 if "attention" in path else leaf.ndim - 1
    if 1 in (math.prod(leaf.shape[:inputs]), math.prod(leaf.shape[inputs:])):
        return None
    return MuonDimensionNumbers(tuple(range(inputs)), tuple(range(inputs, leaf.ndim)))


def learning_rate_schedule(
    options: OptimizerOptions, *, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """Linear from 0 to the peak over the warm-up, then by a cosine or a line to 0 at the end."""
    # A run that is shorter than its recipe still spends half of its steps after warm-up.
    warmup_steps = min(round(options.warmup_epochs * steps_per_epoch), total_steps // 2)
    peak, decay_steps = options.learning_rate, total_steps - warmup_steps
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    if options.learning_rate_decay == "cosine":
        decay = optax.cosine_decay_schedule(peak, decay_steps)
    else:
        decay = optax.linear_schedule(peak, 0.0, decay_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def part_rates(
    backbone_rate: float, model: BoTNet, frozen_parts: Iterable[str]
) -> dict[str, float]:
    """Learning rates of a model's parts, as fractions of the schedule's, where they differ."""
    final = ("final",) if model.config.final_channels else ()
    backbone = ("stem", *STAGE_NAMES, *final)
    rates = {} if backbone_rate == 1 else dict.fromkeys(backbone, backbone_rate)
    return rates | dict.fromkeys(frozen_parts, 0.0)


def make_optimizer(
    options: OptimizerOptions,
    schedule: optax.Schedule,
    rates: Mapping[str, float] = MappingProxyType({}),
) -> optax.GradientTransformation:
    """Gradient clipping, weight decay, and SGD with momentum, AdamW or Muon.

    Weight decay is added to the gradient in SGD, as in the paper's recipes, and decoupled in the
    others. Muon (Jordan et al. 2024) orthogonalises the momentum of the matrices, and leaves the
    other parameters to AdamW; see ``matrix_axes``.

    Args:
        options: optimizer options of the run.
        schedule: learning rate by step.
        rates: learning rates of the model's parts, such as "c2", as fractions of the schedule's
            where they differ; a part at 0 stays as it is.
    """
    optimizer = _whole_model_optimizer(options, schedule)
    if not rates:
        return optimizer

    def scale(updates: dict[str, Any], _: Any) -> dict[str, Any]:
        return {
            part: optax.tree.scale(rates.get(part, 1.0), of_part)
            for part, of_part in updates.items()
        }

    return optax.chain(optimizer, optax.stateless(scale))


def _whole_model_optimizer(
    options: OptimizerOptions, schedule: optax.Schedule
) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    if options.optimizer == "adamw":
        return optax.chain(clip, _adamw(options, schedule))
    if options.optimizer == "muon":
        return optax.chain(clip, _muon(options, schedule))
    return optax.chain(
        clip,
        optax.add_decayed_weights(options.weight_decay, mask=decay_mask),
        optax.sgd(schedule, momentum=options.momentum, nesterov=options.nesterov),
    )


def _adamw(options: OptimizerOptions, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(schedule, weight_decay=options.weight_decay, mask=decay_mask)


def _muon(options: OptimizerOptions, schedule: optax.Schedule) -> optax.GradientTransformation:
    # Not optax's own AdamW for the rest, which would decay norms and biases too.
    muon = optax.contrib.muon(
        schedule,
        beta=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        muon_weight_dimension_numbers=matrix_axes,
        consistent_rms=MUON_UPDATE_RMS,
    )

    def optimizers(params: dict[str, Any]) -> Any:
        return _by_path(
            lambda path, leaf: "muon" if _matrix_axes(path, leaf) is not None else "adamw", params
        )

    return optax.partition({"muon": muon, "adamw": _adamw(options, schedule)}, optimizers)
