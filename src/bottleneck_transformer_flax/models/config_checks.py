"""What a ``BoTNetConfig`` may hold, and what is wrong with one in words."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from bottleneck_transformer_flax.models.config import BoTNetConfig

Activation = Literal["relu", "silu", "gelu"]
Stem = Literal["7x7", "3x3", "tiered"]
ChannelAttentionPosition = Literal["output", "middle"]

AttentionBackend = Literal["auto", "reference", "blockwise", "fused"]
FrozenPart = Literal["stem", "c2", "c3", "c4", "c5"]

STAGE_NAMES = ("c2", "c3", "c4", "c5")

_OPTIONAL_COUNTS = ("head_dim", "query_key_dim", "group_size", "final_channels")
_COUNTS = (
    "num_classes",
    "num_heads",
    "initial_filters",
    "se_divisor",
    "image_channels",
    "batch_norm_groups",
    *_OPTIONAL_COUNTS,
)
_RANGES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    ("se_ratio", "in [0, 1], 0 for no squeeze-and-excite", lambda v: 0 <= v <= 1),
    ("bn_momentum", "in [0, 1), such as 0.9", lambda v: 0 <= v < 1),
    ("bn_epsilon", "above 0, such as 1e-5", lambda v: 0 < v < math.inf),
    ("dropout_rate", "in [0, 1), 0 for none", lambda v: 0 <= v < 1),
    ("stochastic_depth_rate", "in [0, 1), 0 for none", lambda v: 0 <= v < 1),
)
_CHOICES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("activation", get_args(Activation)),
    ("stem", get_args(Stem)),
    ("channel_attention_position", get_args(ChannelAttentionPosition)),
    ("se_activation", (*get_args(Activation), None)),
    ("frozen_through", (*get_args(FrozenPart), None)),
    ("attention_backend", get_args(AttentionBackend)),
)
_SWITCHES = (
    "stride_one",
    "stem_pool",
    "attention_shortcut_activation",
    "zero_residual_init",
    "scaled_positions",
    "efficient_channel_attention",
    "frozen_batch_stats",
    "folded_batch_norm",
    "remat",
)


def config_problems(config: "BoTNetConfig") -> list[str]:
    """A sentence for each field that is not allowed, or else for each two that don't agree."""
    return list(_wrong_values(config)) or list(_conflicts(config))


def _wrong_values(config: "BoTNetConfig") -> Iterable[str]:
    if not _is_four_of(config.stage_sizes, _is_count):
        yield (
            f"stage_sizes is {config.stage_sizes!r}; expected four integers of at least 1, "
            "the blocks of c2, c3, c4 and c5, such as (3, 4, 6, 3)"
        )
    if not _is_four_of(config.block_pattern, _is_pattern):
        yield (
            f"block_pattern is {config.block_pattern!r}; expected four strings of the letters "
            'C (convolution) and A (attention), such as ("C", "C", "C", "A")'
        )
    for name in _COUNTS:
        value = getattr(config, name)
        optional = name in _OPTIONAL_COUNTS
        if not (_is_count(value) or (optional and value is None)):
            none = " or None" if optional else ""
            yield f"{name} is {value!r}; expected an integer of at least 1{none}"
    if not (
        _is_count(config.projection_factor) or _is_four_of(config.projection_factor, _is_count)
    ):
        yield (
            f"projection_factor is {config.projection_factor!r}; expected an integer of at least "
            "1, or four of them, one for each stage"
        )
    for name, allowed, inside in _RANGES:
        value = getattr(config, name)
        if not _is_number(value) or not inside(value):
            yield f"{name} is {value!r}; expected a number {allowed}"
    for name, allowed_names in _CHOICES:
        value = getattr(config, name)
        if value not in allowed_names:
            yield f"{name} is {value!r}; expected one of {', '.join(map(str, allowed_names))}"
    for name in _SWITCHES:
        value = getattr(config, name)
        if not isinstance(value, bool):
            yield f"{name} is {value!r}; expected True or False"


def _conflicts(config: "BoTNetConfig") -> Iterable[str]:
    """What does not go together, where each value alone is fine."""
    if config.efficient_channel_attention and config.se_ratio:
        yield (
            f"se_ratio is {config.se_ratio} beside efficient_channel_attention, which takes its "
            "place; expected 0"
        )
    if not min(config.stem_channels):
        yield (
            f"initial_filters is {config.initial_filters}, of which stem 'tiered' takes 3/8 and "
            "1/2; expected at least 3"
        )
    for stage, name in enumerate(STAGE_NAMES):
        channels, kinds = config.inner_channels(stage), config.block_kinds(stage)
        if config.head_dim is None and "A" in kinds and channels % config.num_heads:
            yield (
                f"num_heads is {config.num_heads}, which does not divide the {channels} inner "
                f"channels of {name}; expected a divisor, or a head_dim"
            )
        if config.group_size is not None and "C" in kinds and channels % config.group_size:
            yield (
                f"group_size is {config.group_size}, which does not divide the {channels} inner "
                f"channels of {name}; expected a divisor, or None"
            )


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_int(value) and bool(value >= 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and set(value) <= {"C", "A"}


def _is_four_of(value: Any, allowed: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 4 and all(map(allowed, value))
