"""How a model computes or trains its function; none of this is saved with the weights."""

from dataclasses import dataclass
from typing import Literal, get_args

from bottleneck_transformer_flax.config_checks import check_fields

AttentionBackend = Literal["auto", "reference", "blockwise", "fused"]
ConvolutionAlgorithm = Literal["auto", "plain"]
FrozenPart = Literal["stem", "c2", "c3", "c4", "c5"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Every choice that changes a model's speed, memory or training, but not its function.

    "auto" chooses by static shapes and by the platform that JAX computes on while it traces, so a
    model traced for other platforms, or for several, needs ``attention_backend="reference"`` and
    ``convolution_algorithm="plain"``. A symbolic batch size takes these by itself.

    Attributes:
        attention_backend: algorithm of the attention: "reference" holds all attention weights in
            memory, "blockwise" a block of them (with gradients in reverse mode only), "fused" is
            one call of ``jax.nn.dot_product_attention``, and "auto" takes the fastest.
        convolution_algorithm: "plain" for XLA's own convolutions, with every 1×1 as one matrix
            product; "auto" for Winograd and im2col too, where they are faster.
        remat: whether the backward pass recomputes whole blocks from their inputs, for less than
            half the memory and about a fifth more time; otherwise it recomputes norms and
            activations only, and of small images nothing.
        batch_norm_groups: equal parts of a training batch, each normalised by its own statistics.
        frozen_through: last part that training leaves as it is; it and all parts before it
            compute as in inference and get no gradient. None to train every part.
        frozen_batch_stats: whether training normalises by the running statistics and keeps them.

    Raises:
        ConfigError: when a value is not allowed; the message names every such field.
    """

    attention_backend: AttentionBackend = "auto"
    convolution_algorithm: ConvolutionAlgorithm = "auto"
    remat: bool = False
    batch_norm_groups: int = 1
    frozen_through: FrozenPart | None = None
    frozen_batch_stats: bool = False

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self)

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Names of the parts that training leaves as they are, from the stem on."""
        parts = get_args(FrozenPart)
        return parts[: parts.index(self.frozen_through) + 1] if self.frozen_through else ()
