"""What a BoTNet is made of: one frozen record, which checks itself and is plain JSON."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from bottleneck_transformer_flax.errors import ConfigError, unknown_name
from bottleneck_transformer_flax.models.config_checks import (
    Check,
    are_four,
    is_count,
    number,
    problems,
)

Activation = Literal["relu", "silu", "gelu"]
Stem = Literal["7x7", "3x3", "tiered"]
ChannelAttentionPosition = Literal["output", "middle"]

STAGE_NAMES = ("c2", "c3", "c4", "c5")
_MOVED_TO_EXECUTION = (
    "attention_backend",
    "remat",
    "batch_norm_groups",
    "frozen_through",
    "frozen_batch_stats",
)
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True, kw_only=True)
class BoTNetConfig:
    """A ResNet of four bottleneck stages, any of whose blocks may attend instead of convolve.

    The defaults are those of the paper's scaled models (arXiv 2101.11605, T3 to T7), so that
    ``stage_sizes`` alone describes each of them.

    Attributes:
        stage_sizes: residual blocks in the stages c2, c3, c4 and c5.
        num_classes: outputs of the classifier.
        stride_one: whether c5 keeps the resolution of c4 (the paper's "S1" models).
        se_ratio: hidden width of squeeze-and-excite as a fraction of the channels it scales, in
            convolution blocks only; 0 for none.
        num_heads: attention heads.
        head_dim: size of one head of the values, and of queries and keys; None for the stage's
            inner channels divided by the heads.
        initial_filters: channels of the stem, and inner channels of c2; each stage doubles them.
        projection_factor: channels a stage gives out, as a multiple of its inner channels; one
            for all stages, or one for each.
        bn_momentum: share of the running statistics that each batch leaves in place.
        bn_epsilon: added to the variance in batch norm.
        dtype: of the computation, float32 or bfloat16. Parameters, batch statistics, the softmax
            and the logits are float32 either way.
        activation: the nonlinearity everywhere.
        block_pattern: for each stage, the kinds of its blocks, ``C`` convolution and ``A``
            attention, repeated until the stage is full: ``"CA"`` alternates.
        stem: "7x7" is the ImageNet stem (stride 2); "3x3" has stride 1, for small images;
            "tiered" is three 3×3 convolutions of 3/8, 1/2 and all of the channels, the first of
            stride 2 and, where no max-pool follows, the last too.
        stem_pool: whether a 3×3 max-pool of stride 2 follows the stem.
        attention_shortcut_activation: whether the projection shortcut of an attention block is
            activated, as in the authors' code.
        zero_residual_init: whether each residual branch starts as nothing, the scale of its last
            norm being zero. It helps deep networks; a network of few blocks learns faster without.
        query_key_dim: size of one head of queries and keys where it is not ``head_dim``.
        scaled_positions: whether queries are scaled by d^-½ before the position term as well, as
            in the paper, or before the content term alone.
        group_size: channels of one group of the 3×3 convolutions; None for one group of all.
        efficient_channel_attention: whether convolution blocks scale channels by their neighbours
            (arXiv 1910.03151) in place of squeeze-and-excite; ``se_ratio`` is then 0.
        channel_attention_position: whether channels are scaled on the block's "output", or in its
            "middle", before the last 1×1.
        se_activation: of squeeze-and-excite's hidden layer; None for the model's.
        se_divisor: what the hidden width of squeeze-and-excite is a multiple of.
        final_channels: channels of a 1×1 convolution between c5 and the mean that the classifier
            reads; None for no such convolution.
        image_channels: channels of the input images.
        dropout_rate: on the features that the classifier reads, in training.
        stochastic_depth_rate: chance that the last block's residual branch is dropped, for each
            image, in training; growing linearly over the blocks from 0.
        folded_batch_norm: whether the weights before each batch norm have taken it in, which
            leaves them a bias and the model fit for inference alone; see ``fold_batch_norm``.

    Raises:
        ConfigError: naming each field with a value that is not allowed.
    """

    stage_sizes: Sequence[int]
    num_classes: int = 1000
    stride_one: bool = True
    se_ratio: float | int = 0.0625
    num_heads: int = 4
    head_dim: int | None = 128
    initial_filters: int = 64
    projection_factor: int | Sequence[int] = 4
    bn_momentum: float | int = 0.9
    bn_epsilon: float | int = 1e-5
    dtype: Any = _DTYPES["float32"]
    activation: Activation = "silu"
    block_pattern: Sequence[str] = ("C", "C", "C", "A")
    stem: Stem = "7x7"
    stem_pool: bool = True
    attention_shortcut_activation: bool = True
    zero_residual_init: bool = True
    query_key_dim: int | None = None
    scaled_positions: bool = True
    group_size: int | None = None
    efficient_channel_attention: bool = False
    channel_attention_position: ChannelAttentionPosition = "output"
    se_activation: Activation | None = None
    se_divisor: int = 1
    final_channels: int | None = None
    image_channels: int = 3
    dropout_rate: float | int = 0.0
    stochastic_depth_rate: float | int = 0.0
    folded_batch_norm: bool = False

    def __new__(cls, **fields: Any) -> "BoTNetConfig":
        """Refuse an unknown field with a suggestion, before Python does so without one."""
        if moved := [name for name in fields if name in _MOVED_TO_EXECUTION]:
            raise ConfigError(
                f"{', '.join(moved)} is no longer a config field but one of Execution: pass "
                "execution=Execution(…) to BoTNet or load_pretrained"
            )
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ConfigError(unknown_name("config field", name, known))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Bring lists and dtype-likes into their one form, then check every field."""
        for name in ("stage_sizes", "block_pattern", "projection_factor"):
            value = getattr(self, name)
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "dtype", _as_dtype(self.dtype))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # NumPy's numbers are no JSON, and neither are those in a tuple of them.
            if isinstance(value, np.generic):
                object.__setattr__(self, field.name, value.item())
            elif isinstance(value, tuple):
                plain = tuple(v.item() if isinstance(v, np.generic) else v for v in value)
                object.__setattr__(self, field.name, plain)
        if wrong := problems(self, **_CHECKS) or list(_conflicts(self)):
            raise ConfigError("; ".join(wrong))

    @property
    def stem_strides(self) -> tuple[int, ...]:
        """By how much each convolution of the stem reduces the resolution."""
        return {"7x7": (2,), "3x3": (1,), "tiered": (2, 1, 1 if self.stem_pool else 2)}[self.stem]

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """Channels that each convolution of the stem gives out."""
        channels = self.initial_filters
        if self.stem != "tiered":
            return (channels,)
        return (3 * channels // 8, channels // 2, channels)

    @property
    def stage_strides(self) -> tuple[int, int, int, int]:
        """By how much each stage's first block reduces the resolution."""
        return (1, 2, 2, 1 if self.stride_one else 2)

    @property
    def total_stride(self) -> int:
        """Input pixels along each side for one position of c5; the smallest image allowed."""
        stem_stride = math.prod(self.stem_strides) * (2 if self.stem_pool else 1)
        return stem_stride * math.prod(self.stage_strides)

    def inner_channels(self, stage: int) -> int:
        """Channels within the blocks of stage 0 to 3."""
        return self.initial_filters * 2**stage

    def out_channels(self, stage: int) -> int:
        """Channels that stage 0 to 3 gives out."""
        factor = self.projection_factor
        return self.inner_channels(stage) * (factor if isinstance(factor, int) else factor[stage])

    def in_channels(self, stage: int) -> int:
        """Channels that stage 0 to 3 takes in."""
        return self.initial_filters if stage == 0 else self.out_channels(stage - 1)

    def has_shortcut(self, stage: int) -> bool:
        """Whether the first block of stage 0 to 3 projects what it adds its result to."""
        return self.stage_strides[stage] != 1 or self.in_channels(stage) != self.out_channels(stage)

    def head_sizes(self, inner_channels: int) -> tuple[int, int]:
        """(of queries and keys, of values): the size of one head in a block that attends."""
        value = self.head_dim or inner_channels // self.num_heads
        return self.query_key_dim or value, value

    def block_kinds(self, stage: int) -> str:
        """The kind of every block of stage 0 to 3, as letters ``C`` and ``A``, in order."""
        pattern, size = self.block_pattern[stage], self.stage_sizes[stage]
        return (pattern * size)[:size]

    def replace(self, **changes: Any) -> "BoTNetConfig":
        """The same model with some fields changed.

        Raises:
            ConfigError: for a name that is no field (with the nearest one) or a bad value.
        """
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        values = dataclasses.asdict(self)
        return values | {"dtype": self.dtype.name}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BoTNetConfig":
        """The configuration from what ``to_json`` gave.

        Raises:
            ConfigError: for a missing or unknown key or a bad value.
        """
        if "stage_sizes" not in values:
            raise ConfigError("the config has no stage_sizes; expected four integers")
        # Configs written before there was an Execution hold its fields.
        return cls(**{k: v for k, v in values.items() if k not in _MOVED_TO_EXECUTION})


def _as_dtype(value: Any) -> np.dtype[Any]:
    try:
        dtype = _DTYPES.get(value) if isinstance(value, str) else np.dtype(value)
    except (TypeError, ValueError):
        dtype = None
    if dtype is None or dtype not in _DTYPES.values():
        raise ConfigError(f"dtype is {value!r}; expected one of {', '.join(_DTYPES)}")
    return dtype


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and set(value) <= {"C", "A"}


_RATE = number("in [0, 1), 0 for none", lambda value: 0 <= value < 1)
_CHECKS = {
    "stage_sizes": Check(
        lambda value: are_four(value, is_count),
        "four integers of at least 1, the blocks of c2, c3, c4 and c5, such as (3, 4, 6, 3)",
    ),
    "block_pattern": Check(
        lambda value: are_four(value, _is_pattern),
        "four strings of the letters C (convolution) and A (attention), such as "
        '("C", "C", "C", "A")',
    ),
    "projection_factor": Check(
        lambda value: is_count(value) or are_four(value, is_count),
        "an integer of at least 1, or four of them, one for each stage",
    ),
    "se_ratio": number("in [0, 1], 0 for no squeeze-and-excite", lambda value: 0 <= value <= 1),
    "bn_momentum": number("in [0, 1), such as 0.9", lambda value: 0 <= value < 1),
    "bn_epsilon": number("above 0, such as 1e-5", lambda value: 0 < value < math.inf),
    "dropout_rate": _RATE,
    "stochastic_depth_rate": _RATE,
}
"""The checks that a field's type does not say."""


def _conflicts(config: BoTNetConfig) -> Iterator[str]:
    """One sentence for each pair of values that exclude each other."""
    if config.efficient_channel_attention and config.se_ratio:
        yield (
            f"se_ratio is {config.se_ratio} beside efficient_channel_attention, which takes its "
            "place; expected 0"
        )
    if not min(config.stem_channels):
        yield (
            f"initial_filters is {config.initial_filters}, but stem 'tiered' needs at least 3 "
            "for its 3/8 and 1/2 of them"
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
