"""A run described in words before it starts: its recipe, its setup, and an estimate of its cost."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.cli.options import command_line, option_name
from bottleneck_transformer_flax.training.class_balance import IMBALANCED
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.recipes import RECIPES
from bottleneck_transformer_flax.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from bottleneck_transformer_flax.training.defaults import Choice
    from bottleneck_transformer_flax.training.estimate import Estimate
    from bottleneck_transformer_flax.training.metrics import Progress
    from bottleneck_transformer_flax.training.setup import Setup

TRAINED_WEIGHTS = "timm/botnet26t_256.c1_in1k"
"""The published weights that few photographs are best trained from."""

# Lines other than the recipe's show these.
_ELSEWHERE = ("data", "variant", "pretrained", "input.image_size")


def recipe_lines(name: str, config: RunConfig) -> Iterator[str]:
    """The recipe, all that the run changes in it, and a note if the learning rate doesn't fit."""
    recipe = RECIPES[name]
    changed = [
        _option(path, value)
        for path, value in recipe.differences(config).items()
        if path not in _ELSEWHERE
    ]
    yield f"recipe  {name}{', but ' if changed else ''}{', '.join(changed)}"
    theirs, ours = recipe.optimization, config.optimization
    if theirs.learning_rate == ours.learning_rate and theirs.optimizer == ours.optimizer == "sgd":
        # The linear scaling rule, which is for SGD alone: Goyal et al. 2017, arXiv 1706.02677.
        rate = ours.learning_rate * config.batch_size / recipe.batch_size
        if rate != ours.learning_rate:
            yield (
                f"note    learning rate {ours.learning_rate:g} is for {recipe.batch_size} images "
                f"per step; for {config.batch_size}, the linear scaling rule gives "
                f"--learning-rate {rate:g}"
            )


def choice_lines(choice: "Choice", data: str) -> Iterator[str]:
    """Why a recipe was chosen, and the better start that few photographs have."""
    yield f"because {choice.reason}"
    if choice.needs_pretrained:
        start = command_line("train", "--data", data, "--pretrained", TRAINED_WEIGHTS)
        yield f"note    trained weights are a far better start for so few photographs: {start}"


def setup_lines(setup: "Setup") -> Iterator[str]:
    """What will be trained, on what, and how."""
    height, width = setup.preprocessing.size
    config = setup.config
    yield f"data    {setup.splits.description}"
    yield from (f"note    {note}" for note in setup.splits.notes)
    yield (
        f"model   {setup.model_name} at {height} × {width} pixels, {setup.num_parameters:,} "
        "parameters"
    )
    if setup.pretrained is not None:
        yield f"start   {', '.join(_start(setup))}"
    patience = ""
    if config.patience is not None:
        patience = f", ends after {counted(config.patience, 'validation')} without a better model"
    yield (
        f"train   {_length(setup)}, {counted(setup.batch_size, 'image')} per step, "
        f"seed {config.seed}{patience}"
    )
    yield f"update  {', '.join(_update(config))}"
    yield f"images  {', '.join(_images(config))}"
    yield f"compute {', '.join(_compute(setup))}"
    if setup.batch_size < config.batch_size:
        yield (
            f"note    batch_size {config.batch_size} exceeds the number of training images; "
            f"{setup.batch_size} is used"
        )


def _length(setup: "Setup") -> str:
    """How long the run is, in epochs and steps."""
    steps, of_epoch = setup.total_steps, setup.steps_per_epoch
    if steps == of_epoch * setup.config.epochs:
        return f"{counted(setup.config.epochs, 'epoch')} of {counted(of_epoch, 'step')}"
    return f"{counted(steps, 'step')}, {steps / of_epoch:.2g} epochs of {of_epoch}"


def imbalance_lines(setup: "Setup") -> Iterator[str]:
    """A note where most images are of some classes: accuracy then says little about the others."""
    names, labels = setup.class_names, setup.splits.train.labels
    counts = np.bincount(labels, minlength=len(names))
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] < IMBALANCED * counts[smallest]:
        return
    balanced = "" if setup.splits.validation is None else ", look at balanced accuracy"
    if setup.config.class_balance == "none":
        balanced += "; --class-balance weights or sampling makes the classes count equally"
    yield (
        f"note    {counts[largest]:,} training images are of {names[largest]!r} and "
        f"{counts[smallest]:,} of {names[smallest]!r}: accuracy misleads{balanced}"
    )


def extension_lines(setup: "Setup", progress: "Progress", run: RunDirectory) -> Iterator[str]:
    """What a run does that is resumed with another number of epochs, and what it leaves."""
    if not progress.is_extended:
        return
    before, now = (each["epochs"] for each in progress.planned[-2:])
    rate = ""
    if progress.step < setup.total_steps:
        rate = f", {setup.learning_rates[progress.step]:.3g} in the next step"
    yield (
        f"note    {now} epochs instead of {before}: from here on, the learning rate is that of a "
        f"run of {counted(now, 'epoch')}{rate}; a run begun with as many has another result"
    )
    if run.pretrained.exists():
        scored = "" if setup.splits.test is None else ", which scores the test images once more"
        yield f"note    {run.pretrained} and its scores stay until the new end of the run{scored}"


def estimate_lines(setup: "Setup", found: "Estimate") -> Iterator[str]:
    """Steps, memory and time that the run would need."""
    yield f"steps   {found.steps:,}, {found.images:,} images"
    memory = f"{found.state_bytes / 1e6:,.0f} MB for the state"
    if found.temporaries_bytes is not None:
        memory += f" and {found.temporaries_bytes / 1e6:,.0f} MB during a step"
    where = "the device" if found.devices == 1 else f"each of {found.devices} devices"
    yield f"memory  {memory}, on {where}"
    parts = [
        f"{1e3 * found.step_seconds:,.0f} ms per step ({1e3 * found.input_seconds:,.0f} of them "
        "waiting for images)"
    ]
    if found.evaluations:
        times = counted(found.evaluations, "validation")
        parts.append(f"{times} of {found.evaluation_seconds:,.1f} s")
    if found.test_seconds:
        parts.append(f"{found.test_seconds:,.1f} s for the test images")
    parts.append(f"{found.compile_seconds:,.0f} s to compile")
    yield f"time    {_duration(found.seconds)}: {', '.join(parts)}"
    if setup.config.input.progressive_phases > 1:
        yield "        assuming that the images have their final size from the start"


def less_memory(config: RunConfig, resumed: Path | None) -> str:
    """What makes a step need less memory; a run that is resumed cannot change any of it."""
    helps = ["a smaller --batch-size or --image-size", "more --accumulation-steps"]
    helps += [] if config.optimization.remat else ["--remat"]
    helps += [] if config.model.dtype == "bfloat16" else ["--dtype bfloat16"]
    how = "try" if resumed is None else f"begin a new run with --like {resumed} and"
    return f"{how} {', '.join(helps[:-1])}, or {helps[-1]}"


def describe_augmentation(augmentation: Augmentation) -> str:
    """How training images are augmented, in words."""
    crops = {
        "none": "no random crop",
        "shift": f"shifted by up to {counted(augmentation.shift_pixels, 'pixel')}",
        "resized": f"crops of {100 * augmentation.min_scale:g} to 100 % of the area",
    }
    policies = {
        "none": "",
        "rand": f"RandAugment, {augmentation.policy_layers} operations of magnitude "
        f"{augmentation.policy_magnitude:g}",
        "trivial": "TrivialAugment",
    }
    erased = f"random erasing in {100 * augmentation.erasing_probability:g} %"
    parts = [
        crops[augmentation.crop],
        policies[augmentation.policy],
        "half of them flipped" if augmentation.flip else "",
        erased if augmentation.erasing_probability else "",
        f"mixup {augmentation.mixup_alpha:g}" if augmentation.mixup_alpha else "",
        f"CutMix {augmentation.cutmix_alpha:g}" if augmentation.cutmix_alpha else "",
    ]
    return ", ".join(part for part in parts if part)


def counted(count: float | int, thing: str) -> str:
    """A count with its noun, such as "1 epoch" or "1.5 epochs"."""
    return f"{_plain(count)} {thing}{'' if count == 1 else 's'}"


def _start(setup: "Setup") -> Iterator[str]:
    """The pretrained model, and which parts of it stay."""
    head = "its own head, for the same classes" if setup.keeps_head else "a new head"
    yield f"{setup.config.pretrained} with {head}"
    options = setup.config.fine_tuning
    if options.frozen_through is not None:
        yield f"frozen through {options.frozen_through}"
    if options.backbone_rate != 1 and options.frozen_through != "c5":
        yield f"backbone at {options.backbone_rate:g} of the learning rate"
    if options.frozen_batch_stats:
        yield "batch statistics frozen"


def _update(config: RunConfig) -> Iterator[str]:
    options = config.optimization
    momentum = f" with {'Nesterov ' if options.nesterov else ''}momentum {options.momentum:g}"
    yield options.optimizer + ("" if options.optimizer == "adamw" else momentum)
    warmup_epochs = min(options.warmup_epochs, config.epochs / 2)
    warmup = f" after {counted(warmup_epochs, 'epoch')} of warm-up" if warmup_epochs else ""
    decay = {"cosine": "a cosine", "linear": "a line"}[options.learning_rate_decay]
    yield f"learning rate {options.learning_rate:g}{warmup}, then {decay} to 0"
    yield f"weight decay {options.weight_decay:g}"
    if config.class_balance == "weights":
        yield "images weighted so that classes count equally"
    if options.label_smoothing:
        yield f"label smoothing {options.label_smoothing:g}"
    if options.clip_norm is not None:
        yield f"gradients clipped to norm {options.clip_norm:g}"
    if options.ema_decay is not None:
        yield f"moving average with decay {options.ema_decay:g}"
    if config.model.dropout_rate:
        yield f"dropout {config.model.dropout_rate:g}"
    if config.model.stochastic_depth_rate:
        yield f"stochastic depth {config.model.stochastic_depth_rate:g}"


def _images(config: RunConfig) -> Iterator[str]:
    if config.class_balance == "sampling":
        yield "equally many of each class"
    yield describe_augmentation(config.augmentation)
    phases, start = config.input.progressive_phases, config.input.progressive_start
    if phases > 1:
        yield f"growing from {100 * start:g} % of the size in {phases} phases"


def _compute(setup: "Setup") -> Iterator[str]:
    import jax

    processes = jax.process_count()
    among = f" of {processes} processes" if processes > 1 else ""
    count = counted(setup.devices.num_devices, "device")
    yield f"on {count}{among} ({jax.devices()[0].device_kind})"
    config, options = setup.config, setup.config.optimization
    if config.model.dtype != "float32":
        yield f"in {config.model.dtype}, parameters in float32"
    if options.accumulation_steps > 1:
        yield f"each batch in {options.accumulation_steps} micro-batches"
    if options.remat:
        yield "blocks rematerialised in the backward pass"
    if options.batch_norm_groups > 1:
        yield f"batch norms over {options.batch_norm_groups} groups"
    if options.shard_parameters:
        yield "parameters sharded over the devices"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:,.1f} hours" if hours >= 1 else f"{minutes:,.1f} minutes"


def _option(path: str, value: Any) -> str:
    """An option of a run with its value, as a user would type it."""
    name = option_name(path)
    if isinstance(value, bool):
        return name if value else name.replace("--", "--no-", 1)
    return f"{name} {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_plain(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
