"""What a BoTNet is made of: one frozen record, which checks itself and is plain JSON."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np

from bottleneck_transformer_flax.errors import ConfigError

Activation = Literal["relu", "silu", "gelu"]
Stem = Literal["7x7", "3x3"]

STAGE_NAMES = ("c2", "c3", "c4", "c5")
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
        head_dim: size of one head, of queries, keys and values alike.
        initial_filters: channels of the stem, and inner channels of c2; each stage doubles them.
        projection_factor: channels a stage gives out, as a multiple of its inner channels.
        bn_momentum: share of the running statistics that each batch leaves in place.
        bn_epsilon: added to the variance in batch norm.
        dtype: of the computation, float32 or bfloat16. Parameters, batch statistics, the softmax
            and the logits are float32 either way.
        activation: the nonlinearity everywhere.
        block_pattern: for each stage, the kinds of its blocks, ``C`` convolution and ``A``
            attention, repeated until the stage is full: ``"CA"`` alternates.
        stem: "7x7" is the ImageNet stem (stride 2); "3x3" has stride 1, for small images.
        stem_pool: whether a 3×3 max-pool of stride 2 follows the stem.
        attention_shortcut_activation: whether the projection shortcut of an attention block is
            activated, as in the authors' code.
        zero_residual_init: whether each residual branch starts as nothing, the scale of its last
            norm being zero. It helps deep networks; a network of few blocks learns faster without.
        image_channels: channels of the input images.
        dropout_rate: on the features that the classifier reads, in training.
        stochastic_depth_rate: chance that the last block's residual branch is dropped, for each
            image, in training; growing linearly over the blocks from 0.

    Raises:
        ConfigError: naming each field with a value that is not allowed.
    """

    stage_sizes: Sequence[int]
    num_classes: int = 1000
    stride_one: bool = True
    se_ratio: float | int = 0.0625
    num_heads: int = 4
    head_dim: int = 128
    initial_filters: int = 64
    projection_factor: int = 4
    bn_momentum: float | int = 0.9
    bn_epsilon: float | int = 1e-5
    dtype: Any = _DTYPES["float32"]
    activation: Activation = "silu"
    block_pattern: Sequence[str] = ("C", "C", "C", "A")
    stem: Stem = "7x7"
    stem_pool: bool = True
    attention_shortcut_activation: bool = True
    zero_residual_init: bool = True
    image_channels: int = 3
    dropout_rate: float | int = 0.0
    stochastic_depth_rate: float | int = 0.0

    def __post_init__(self) -> None:
        """Bring lists and dtype-likes into their one form, then check every field."""
        for name in ("stage_sizes", "block_pattern"):
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
        problems = list(self._problems())
        if problems:
            raise ConfigError("; ".join(problems))

    def _problems(self) -> Iterable[str]:
        if not _is_four_of(self.stage_sizes, lambda size: _is_int(size) and size >= 1):
            yield (
                f"stage_sizes is {self.stage_sizes!r}; expected four integers of at least 1, "
                "the blocks of c2, c3, c4 and c5, such as (3, 4, 6, 3)"
            )
        if not _is_four_of(self.block_pattern, _is_pattern):
            yield (
                f"block_pattern is {self.block_pattern!r}; expected four strings of the letters "
                'C (convolution) and A (attention), such as ("C", "C", "C", "A")'
            )
        for name in (
            "num_classes",
            "num_heads",
            "head_dim",
            "initial_filters",
            "projection_factor",
            "image_channels",
        ):
            value = getattr(self, name)
            if not _is_int(value) or value < 1:
                yield f"{name} is {value!r}; expected an integer of at least 1"
        ranges: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
            ("se_ratio", "in [0, 1], 0 for no squeeze-and-excite", lambda v: 0 <= v <= 1),
            ("bn_momentum", "in [0, 1), such as 0.9", lambda v: 0 <= v < 1),
            ("bn_epsilon", "above 0, such as 1e-5", lambda v: 0 < v < math.inf),
            ("dropout_rate", "in [0, 1), 0 for none", lambda v: 0 <= v < 1),
            ("stochastic_depth_rate", "in [0, 1), 0 for none", lambda v: 0 <= v < 1),
        )
        for name, allowed, inside in ranges:
            value = getattr(self, name)
            if not _is_number(value) or not inside(value):
                yield f"{name} is {value!r}; expected a number {allowed}"
        for name, allowed_names in (("activation", Activation), ("stem", Stem)):
            value = getattr(self, name)
            if value not in get_args(allowed_names):
                yield f"{name} is {value!r}; expected one of {', '.join(get_args(allowed_names))}"
        for name in (
            "stride_one",
            "stem_pool",
            "attention_shortcut_activation",
            "zero_residual_init",
        ):
            value = getattr(self, name)
            if not isinstance(value, bool):
                yield f"{name} is {value!r}; expected True or False"

    @property
    def stage_strides(self) -> tuple[int, int, int, int]:
        """By how much each stage's first block reduces the resolution."""
        return (1, 2, 2, 1 if self.stride_one else 2)

    @property
    def total_stride(self) -> int:
        """Input pixels along each side for one position of c5; the smallest image allowed."""
        stem_stride = (2 if self.stem == "7x7" else 1) * (2 if self.stem_pool else 1)
        return stem_stride * math.prod(self.stage_strides)

    def block_kinds(self, stage: int) -> str:
        """The kind of every block of stage 0 to 3, as letters ``C`` and ``A``, in order."""
        pattern, size = self.block_pattern[stage], self.stage_sizes[stage]
        return (pattern * size)[:size]

    def replace(self, **changes: Any) -> "BoTNetConfig":
        """The same model with some fields changed.

        Raises:
            ConfigError: for a name that is no field (with the nearest one) or a bad value.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(unknown_name("config field", name, known))
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
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(unknown_name("config field", name, known))
        if "stage_sizes" not in values:
            raise ConfigError("the config has no stage_sizes; expected four integers")
        return cls(**values)


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is not among those known, suggesting the nearest."""
    known = list(known)
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
    suggestion = f" did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {name!r};{suggestion} Known are: {', '.join(known)}"


def _as_dtype(value: Any) -> np.dtype[Any]:
    try:
        dtype = np.dtype(_DTYPES.get(value, value) if isinstance(value, str) else value)
    except TypeError:
        dtype = None
    if dtype not in _DTYPES.values():
        raise ConfigError(f"dtype is {value!r}; expected one of {', '.join(_DTYPES)}")
    return dtype


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and set(value) <= {"C", "A"}


def _is_four_of(value: Any, allowed: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 4 and all(map(allowed, value))
