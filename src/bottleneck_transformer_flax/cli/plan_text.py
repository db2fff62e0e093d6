"""What a run resolves to, in words, before it starts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.cli.record_paths import differences
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.recipes import RECIPES

if TYPE_CHECKING:
    from bottleneck_transformer_flax.training.setup import Plan

# What other lines say.
_ELSEWHERE = ("data", "variant", "pretrained")


def recipe_lines(name: str, config: RunConfig) -> list[str]:
    """A recipe, every value in which a run departs from it, and a rate that no longer fits."""
    recipe = RECIPES[name]
    changed = [
        f"{path} {_plain(value)}"
        for path, value in differences(recipe.to_json(), config.to_json())
        if path not in _ELSEWHERE
    ]
    line = f"recipe  {name}{', but ' if changed else ''}{', '.join(changed)}"
    return [line, *_rate_note(recipe, config)]


def _rate_note(recipe: RunConfig, config: RunConfig) -> Iterator[str]:
    """What a recipe's rate would be for another batch, where it was left as it is.

    The rule is of stochastic gradient descent alone: Goyal et al. 2017, arXiv 1706.02677.
    """
    theirs, ours = recipe.optimization, config.optimization
    same_rate = theirs.learning_rate == ours.learning_rate
    if same_rate and theirs.optimizer == ours.optimizer == "sgd":
        rate = ours.learning_rate * config.batch_size / recipe.batch_size
        if rate != ours.learning_rate:
            yield (
                f"note    learning rate {ours.learning_rate:g} is for {recipe.batch_size} images "
                f"a step; in proportion, {config.batch_size} have --learning-rate {rate:g}"
            )


def plan_lines(plan: "Plan") -> list[str]:
    """What will be trained, on what, and how."""
    height, width = plan.preprocessing.size
    config = plan.config
    lines = [
        f"data    {plan.splits.description}",
        f"model   {plan.model_name} at {height} × {width} pixels, {plan.parameters:,} parameters",
        *_start_lines(plan),
        f"train   {counted(config.epochs, 'epoch')} of {counted(plan.steps_per_epoch, 'step')}, "
        f"{counted(plan.batch_size, 'image')} a step, seed {config.seed}",
        f"update  {', '.join(_update(config))}",
        f"images  {', '.join(_images(config))}",
        f"compute {', '.join(_compute(config))}",
    ]
    if plan.batch_size < config.batch_size:
        lines.append(
            f"note    batch_size {config.batch_size} is more than there are training images; "
            f"{plan.batch_size} is used"
        )
    return lines


def _start_lines(plan: "Plan") -> list[str]:
    """What is kept of a pretrained model; nothing for a random start."""
    if plan.pretrained is None:
        return []
    head = "its head, of the same classes" if plan.keeps_head else "a new head"
    parts = [f"{plan.config.pretrained} with {head}"]
    fine_tuning = plan.config.fine_tuning
    if fine_tuning.frozen_through is not None:
        parts.append(f"frozen through {fine_tuning.frozen_through}")
    if fine_tuning.backbone_rate != 1 and any(plan.part_rates.values()):
        parts.append(f"the rest before the head at {fine_tuning.backbone_rate:g} of the rate")
    if fine_tuning.frozen_batch_stats:
        parts.append("batch statistics frozen")
    return [f"start   {', '.join(parts)}"]


def _update(config: RunConfig) -> Iterator[str]:
    """How parameters follow gradients, and what of the model is dropped meanwhile."""
    options = config.optimization
    nesterov = "Nesterov's " if options.nesterov else ""
    momentum = f" with {nesterov}momentum {options.momentum:g}"
    yield options.optimizer + ("" if options.optimizer == "adamw" else momentum)
    warmup_epochs = min(options.warmup_epochs, config.epochs / 2)
    warmup = f" after {counted(warmup_epochs, 'epoch')} of warm-up" if warmup_epochs else ""
    yield f"learning rate {options.learning_rate:g}{warmup}, then by a cosine to 0"
    yield f"weight decay {options.weight_decay:g}"
    if options.label_smoothing:
        yield f"label smoothing {options.label_smoothing:g}"
    if options.clip_norm is not None:
        yield f"gradients clipped to a norm of {options.clip_norm:g}"
    if options.ema_decay is not None:
        yield f"variables averaged with decay {options.ema_decay:g}"
    if config.model.dropout_rate:
        yield f"dropout {config.model.dropout_rate:g}"
    if config.model.stochastic_depth_rate:
        yield f"stochastic depth {config.model.stochastic_depth_rate:g}"


def describe_augmentation(augmentation: Augmentation) -> str:
    """What is done to training images, in words."""
    crops = {
        "none": "no random crop",
        "shift": f"moved by up to {counted(augmentation.shift_pixels, 'pixel')}",
        "resized": f"crops of {100 * augmentation.min_scale:g} to 100 % of the area",
    }
    policies = {
        "none": "",
        "rand": f"RandAugment, {augmentation.policy_layers} operations of magnitude "
        f"{augmentation.policy_magnitude:g}",
        "trivial": "TrivialAugment",
    }
    parts = [
        crops[augmentation.crop],
        policies[augmentation.policy],
        "half of them mirrored" if augmentation.flip else "",
        f"{100 * augmentation.erasing_probability:g} % of them erased in part"
        if augmentation.erasing_probability
        else "",
        f"mixup {augmentation.mixup_alpha:g}" if augmentation.mixup_alpha else "",
        f"CutMix {augmentation.cutmix_alpha:g}" if augmentation.cutmix_alpha else "",
    ]
    return ", ".join(part for part in parts if part)


def _images(config: RunConfig) -> Iterator[str]:
    """What is done to training images over the run."""
    yield describe_augmentation(config.augmentation)
    size = config.input
    if size.progressive_phases > 1:
        yield (
            f"from {100 * size.progressive_start:g} % of the size up in "
            f"{size.progressive_phases} phases"
        )


def _compute(config: RunConfig) -> Iterator[str]:
    """On what, and where a run departs from plain float32 steps."""
    yield _devices()
    options = config.optimization
    if config.model.dtype != "float32":
        yield f"in {config.model.dtype}, parameters in float32"
    if options.accumulation_steps > 1:
        yield f"each batch in {options.accumulation_steps} parts"
    if options.remat:
        yield "blocks computed again in the backward pass"
    if options.batch_norm_groups > 1:
        yield f"batch norms over {options.batch_norm_groups} parts apart"
    if options.shard_parameters:
        yield "parameters in parts over the devices"


def _devices() -> str:
    """What JAX has found, in all processes."""
    import jax

    found = jax.devices()
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"on {counted(len(found), 'device')}{processes} ({found[0].device_kind})"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_plain(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def counted(count: float | int, thing: str) -> str:
    """As "1 epoch" or "1.5 epochs"."""
    return f"{_plain(count)} {thing}{'' if count == 1 else 's'}"
