"""The architecture of a BoTNet, as a frozen record that checks itself and converts to JSON."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from bottleneck_transformer_flax.config_checks import (
    Check,
    are_four,
    is_count,
    number,
    problems,
)
from bottleneck_transformer_flax.errors import ConfigError, unknown_name
from bottleneck_transformer_flax.models.execution import Execution

Activation = Literal["relu", "silu", "gelu"]
Stem = Literal["7x7", "3x3", "tiered"]
Downsampling = Literal["strides", "patches"]
ChannelAttentionPosition = Literal["output", "middle"]

STAGE_NAMES = ("c2", "c3", "c4", "c5")
_EXECUTION_FIELDS = {field.name for field in dataclasses.fields(Execution)}
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True, kw_only=True)
class BoTNetConfig:
    """A ResNet of four stages whose blocks convolve or attend.

    The defaults are those of the paper's scaled models T3 to T7 (arXiv 2101.11605), which differ
    in ``stage_sizes`` alone.

    Attributes:
        stage_sizes: number of residual blocks in each of the stages c2, c3, c4 and c5; c2 may have
            none, and is then the stem's output.
        stride_one: whether c5 keeps the resolution of c4 (the paper's "S1" models).
        se_ratio: hidden width of squeeze-and-excite as a fraction of the channels it scales, in
            convolution bottlenecks only; 0 for none.
        head_dim: size of one head of the values, and of queries and keys; None for the stage's
            inner channels divided by the heads.
        initial_filters: channels of the stem, and inner channels of c2; each stage doubles them.
        projection_factor: output channels of a stage as a multiple of its inner channels; one
            factor for all stages, or one for each.
        bn_momentum: fraction of batch norm's running statistics that remains after each batch.
        dtype: dtype of the computation, float32 or bfloat16. Parameters, batch statistics, the
            softmax and the logits are always float32.
        activation: activation of all blocks and the stem.
        block_pattern: kinds of the blocks of each stage, repeated to fill it: ``C`` for the
            bottleneck with a convolution, ``A`` for the one with attention, ``B`` for the basic
            block of two 3×3 convolutions. ``"CA"`` alternates.
        stem: "7x7", the ImageNet stem with stride 2; "3x3", one convolution with stride 1, for
            small images; or "tiered", three 3×3 convolutions of 3/8, 1/2 and all of the channels,
            the first with stride 2, and the last too where no max-pool follows.
        stem_pool: whether a 3×3 max-pool with stride 2 follows the stem.
        downsampling: how a stage halves the resolution: "strides", in its first block, or
            "patches", by a convolution of 2×2 pixels with stride 2 before it.
        attention_shortcut_activation: whether an activation follows the projection shortcut of
            attention blocks, as in the authors' code.
        zero_residual_init: whether the scale of each block's last norm starts at zero, and with it
            the residual branch. It helps deep networks; networks of few blocks learn faster
            without.
        query_key_dim: size of one head of queries and keys; None for ``head_dim``.
        scaled_positions: whether the d^-½ of the queries scales the position term too, as in the
            paper, or the content term only.
        group_size: channels in each group of the 3×3 convolutions; None for a single group.
        efficient_channel_attention: whether convolution blocks use efficient channel attention
            (arXiv 1910.03151) instead of squeeze-and-excite; ``se_ratio`` must then be 0.
        channel_attention_position: "output" for channel attention after the last 1×1 of a block,
            "middle" for channel attention before it.
        se_activation: activation of squeeze-and-excite's hidden layer; None for ``activation``.
        se_divisor: number that the hidden width of squeeze-and-excite is a multiple of.
        final_channels: channels of a 1×1 convolution between c5 and the global mean; None for no
            such convolution.
        dropout_rate: dropout of the classifier's input in training.
        stochastic_depth_rate: probability, per image, of dropping the last block's residual branch
            in training; earlier blocks' grow linearly from 0.
        folded_batch_norm: whether the weights hold the batch norms that followed them, for
            inference only; see ``fold_batch_norm``.

    Raises:
        ConfigError: when a value is not allowed; the message names every such field.
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
    downsampling: Downsampling = "strides"
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
        """Refuse unknown fields with a suggestion, which Python's own error lacks."""
        if moved := [name for name in fields if name in _EXECUTION_FIELDS]:
            raise ConfigError(
                f"{', '.join(moved)} is a field of Execution, not of the config; pass "
                "execution=Execution(…) to BoTNet or load_pretrained"
            )
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ConfigError(unknown_name("config field", name, known))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Convert sequences, dtypes and NumPy scalars to one form each, then check every field."""
        for name in ("stage_sizes", "block_pattern", "projection_factor"):
            value = getattr(self, name)
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "dtype", _as_dtype(self.dtype))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # JSON takes no NumPy scalars, in tuples or alone.
            if isinstance(value, np.generic):
                object.__setattr__(self, field.name, value.item())
            elif isinstance(value, tuple):
                plain = tuple(v.item() if isinstance(v, np.generic) else v for v in value)
                object.__setattr__(self, field.name, plain)
        if wrong := problems(self, **_CHECKS) or list(_conflicts(self)):
            raise ConfigError("; ".join(wrong))

    @property
    def stem_strides(self) -> tuple[int, ...]:
        """Stride of each convolution of the stem."""
        return {"7x7": (2,), "3x3": (1,), "tiered": (2, 1, 1 if self.stem_pool else 2)}[self.stem]

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """Output channels of each convolution of the stem."""
        channels = self.initial_filters
        if self.stem != "tiered":
            return (channels,)
        return (3 * channels // 8, channels // 2, channels)

    @property
    def stage_strides(self) -> tuple[int, int, int, int]:
        """Factor by which each stage reduces height and width."""
        return (1, 2, 2, 1 if self.stride_one else 2)

    @property
    def total_stride(self) -> int:
        """Input pixels per position of c5 along each side, and the smallest side allowed."""
        stem_stride = math.prod(self.stem_strides) * (2 if self.stem_pool else 1)
        return stem_stride * math.prod(self.stage_strides)

    def inner_channels(self, stage: int) -> int:
        """Inner channels of the blocks of a stage, 0 to 3."""
        return self.initial_filters * 2**stage

    def out_channels(self, stage: int) -> int:
        """Output channels of a stage, 0 to 3."""
        if not self.stage_sizes[stage]:
            return self.in_channels(stage)
        factor = self.projection_factor
        return self.inner_channels(stage) * (factor if isinstance(factor, int) else factor[stage])

    def in_channels(self, stage: int) -> int:
        """Input channels of a stage, 0 to 3."""
        return self.initial_filters if stage == 0 else self.out_channels(stage - 1)

    def has_patches(self, stage: int) -> bool:
        """Whether a stage, 0 to 3, begins with a convolution of patches."""
        return self.downsampling == "patches" and self.stage_strides[stage] != 1

    def has_shortcut(self, stage: int) -> bool:
        """Whether the first block of a stage, 0 to 3, has a projection shortcut."""
        reshaped = self.in_channels(stage) != self.out_channels(stage)
        return not self.has_patches(stage) and (reshaped or self.stage_strides[stage] != 1)

    def head_sizes(self, inner_channels: int) -> tuple[int, int]:
        """Size of one head of (queries and keys, values) in a block with these inner channels."""
        value = self.head_dim or inner_channels // self.num_heads
        return self.query_key_dim or value, value

    def block_kinds(self, stage: int) -> str:
        """Kinds of the blocks of a stage, 0 to 3, in the letters of ``block_pattern``."""
        pattern, size = self.block_pattern[stage], self.stage_sizes[stage]
        return (pattern * size)[:size]

    def replace(self, **changes: Any) -> "BoTNetConfig":
        """Return a copy with some fields changed.

        Raises:
            ConfigError: for an unknown field, with the nearest name, or a value not allowed.
        """
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        values = dataclasses.asdict(self)
        return values | {"dtype": self.dtype.name}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BoTNetConfig":
        """Create a config from the values of ``to_json``, of this or an earlier version.

        Raises:
            ConfigError: for a missing or unknown key, or a value not allowed.
        """
        if "stage_sizes" not in values:
            raise ConfigError("the config has no stage_sizes; expected four integers")
        # Earlier versions wrote some of Execution's fields.
        return cls(**{k: v for k, v in values.items() if k not in _EXECUTION_FIELDS})


def _as_dtype(value: Any) -> np.dtype[Any]:
    try:
        dtype = _DTYPES.get(value) if isinstance(value, str) else np.dtype(value)
    except (TypeError, ValueError):
        dtype = None
    if dtype is None or dtype not in _DTYPES.values():
        raise ConfigError(f"dtype is {value!r}; expected one of {', '.join(_DTYPES)}")
    return dtype


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and set(value) <= {"C", "A", "B"}


def _are_stage_sizes(value: Any) -> bool:
    return are_four(value, lambda size: type(size) is int and size >= 0) and all(value[1:])


_RATE = number("in [0, 1), 0 for none", lambda value: 0 <= value < 1)
_CHECKS = {
    "stage_sizes": Check(
        _are_stage_sizes,
        "four integers of at least 1, the blocks of c2 (or 0), c3, c4 and c5, such as (3, 4, 6, 3)",
    ),
    "block_pattern": Check(
        lambda value: are_four(value, _is_pattern),
        "four strings of the letters C (convolution), A (attention) and B (basic block), such as "
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
"""Checks of the fields whose type does not say it all."""


def _conflicts(config: BoTNetConfig) -> Iterator[str]:
    """Yield one sentence for each conflict between values."""
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
