"""What the values of a run's options may be."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from bottleneck_transformer_flax.models.execution import FrozenPart

if TYPE_CHECKING:
    from bottleneck_transformer_flax.training.config import RunConfig

OptimizerName = Literal["sgd", "adamw", "muon"]
ComputeDtype = Literal["float32", "bfloat16"]

# A name, its value, what is expected, and whether the value is.
_Row = tuple[str, Any, str, bool]


def run_problems(config: "RunConfig") -> list[str]:
    """A sentence for each value that is not allowed."""
    rows = [*_counts(config), *_of_optimization(config), *_of_input(config), *_of_the_run(config)]
    return [
        f"{name} is {value!r}; expected {allowed}"
        for name, value, allowed, fine in rows
        if not fine
    ]


def _counts(config: "RunConfig") -> Iterator[_Row]:
    optimization = config.optimization
    for name, value in (
        ("epochs", config.epochs),
        ("batch_size", config.batch_size),
        ("evaluate_every_epochs", config.evaluate_every_epochs),
        ("save_every_epochs", config.save_every_epochs),
        ("accumulation_steps", optimization.accumulation_steps),
        ("batch_norm_groups", optimization.batch_norm_groups),
        ("progressive_phases", config.input.progressive_phases),
    ):
        yield name, value, "an integer of at least 1", isinstance(value, int) and value >= 1


def _of_the_run(config: "RunConfig") -> Iterator[_Row]:
    pretrained, seed = config.pretrained, config.seed
    yield "data", config.data, "a name or a path", isinstance(config.data, str)
    named = pretrained is None or isinstance(pretrained, str)
    yield "pretrained", pretrained, "a name or a path, or None", named
    yield "seed", seed, "an integer in [0, 2**32)", 0 <= seed < 2**32
    rate = config.fine_tuning.backbone_rate
    yield "backbone_rate", rate, "a number in [0, 1], 0 to train the head alone", 0 <= rate <= 1
    parts, frozen = get_args(FrozenPart), config.fine_tuning.frozen_through
    expected = f"one of {', '.join(parts)}, or None"
    yield "frozen_through", frozen, expected, frozen in (None, *parts)


def _of_optimization(config: "RunConfig") -> Iterator[_Row]:
    options, names = config.optimization, get_args(OptimizerName)
    rate, clip, ema = options.learning_rate, options.clip_norm, options.ema_decay
    warmup, momentum, decay = options.warmup_epochs, options.momentum, options.weight_decay
    smoothing, infinity = options.label_smoothing, float("inf")
    name = options.optimizer
    yield "optimizer", name, f"one of {', '.join(names)}", name in names
    yield "learning_rate", rate, "a number above 0", 0 < rate < infinity
    yield "warmup_epochs", warmup, "a number of at least 0", 0 <= warmup < infinity
    yield "momentum", momentum, "a number in [0, 1)", 0 <= momentum < 1
    yield "weight_decay", decay, "a number of at least 0", 0 <= decay < infinity
    yield "label_smoothing", smoothing, "a number in [0, 1)", 0 <= smoothing < 1
    yield "clip_norm", clip, "a number above 0, or None", clip is None or clip > 0
    yield "ema_decay", ema, "a number in (0, 1), or None", ema is None or 0 < ema < 1
    yield _divisor("accumulation_steps", options.accumulation_steps, config.batch_size)
    micro_batch = config.batch_size // max(1, options.accumulation_steps)
    yield _divisor("batch_norm_groups", options.batch_norm_groups, micro_batch, "a step's images")


def _divisor(name: str, value: int, of: int, what: str = "batch_size") -> _Row:
    return name, value, f"a divisor of {what} = {of}", value >= 1 and of % value == 0


def _of_input(config: "RunConfig") -> Iterator[_Row]:
    options = config.input
    crop, held_out, workers = options.eval_crop, options.validation_fraction, options.num_workers
    phases, start = options.progressive_phases, options.progressive_start
    yield "eval_crop", crop, "a number in (0, 1]", crop is None or 0 < crop <= 1
    yield "validation_fraction", held_out, "a number in [0, 1), such as 0.1", 0 <= held_out < 1
    yield "num_workers", workers, "an integer of at least 0", workers is None or workers >= 0
    reached = f"at most epochs = {config.epochs}, so that the last has the whole size"
    yield "progressive_phases", phases, reached, phases <= max(1, config.epochs)
    yield "progressive_start", start, "a number in (0, 1]", 0 < start <= 1
