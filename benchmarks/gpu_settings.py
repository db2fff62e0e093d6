"""What gpu.py measures at which sizes."""

from dataclasses import dataclass, replace
from typing import Any

from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.variants import get_config

MEASURED = "measured"
NOT_MEASURED = "not yet measured"
"""The status of a trial: it shows that the script works, and its figures say nothing."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured at which sizes.

    Attributes:
        status: of every row that is not a failure.
        checked_grids: (height, width) of grids that attention is checked over.
        timed_grids: (height, width) and batch size of those that it is timed over.
        heads: of attention, and ``head_dim`` the size of each.
        t3: the network compared with timm's, and ``t3_size`` its images' (height, width).
        t7: the network compared with an EfficientNet; ``t7_size`` likewise.
        t3_batch: images a batch at first; half as many wherever they do not fit into memory.
        t7_batch: likewise.
        efficientnet: timm's name of it, and ``efficientnet_size`` its images'.
        compared_batch: images of the batch at which T3 is compared with timm's in float32.
        torch_backend: by which torch.compile compiles; None where nothing is compiled.
        rounds: turns of each implementation.
        turn_seconds: about how long a turn of a network is.
        attention_turn_seconds: and one of attention alone.
    """

    status: str
    checked_grids: tuple[tuple[int, int], ...]
    timed_grids: tuple[tuple[tuple[int, int], int], ...]
    heads: int
    head_dim: int
    t3: BoTNetConfig
    t3_size: tuple[int, int]
    t3_batch: int
    t7: BoTNetConfig
    t7_size: tuple[int, int]
    t7_batch: int
    efficientnet: str
    efficientnet_size: tuple[int, int]
    compared_batch: int
    torch_backend: str | None
    rounds: int
    turn_seconds: float
    attention_turn_seconds: float

    @property
    def full_size(self) -> bool:
        """Whether this measures; else it is a trial."""
        return self.status == MEASURED

    @property
    def dtype(self) -> str:
        """Of what the networks compute in."""
        name: str = self.t3.dtype.name
        return name

    def for_comparison(self) -> "Settings":
        """The same with T3 in float32, and timm's not compiled."""
        return replace(
            self,
            t3=self.t3.replace(dtype="float32"),
            torch_backend=None,
        )


FULL = Settings(
    status=MEASURED,
    checked_grids=((14, 14), (32, 32), (64, 64), (13, 20)),
    timed_grids=(((14, 14), 256), ((32, 32), 64), ((64, 64), 8)),
    heads=4,
    head_dim=128,
    t3=get_config("botnet_t3", dtype="bfloat16"),
    t3_size=(224, 224),
    t3_batch=256,
    t7=get_config("botnet_t7", dtype="bfloat16"),
    t7_size=(384, 384),
    t7_batch=32,
    efficientnet="efficientnet_b7",
    efficientnet_size=(600, 600),
    compared_batch=8,
    torch_backend="inductor",
    rounds=7,
    turn_seconds=0.3,
    attention_turn_seconds=0.1,
)
_SMALL_NETWORK: dict[str, Any] = {
    "stage_sizes": (1, 1, 1, 1),
    "initial_filters": 8,
    "head_dim": 16,
    "num_classes": 10,
}
SMALL = Settings(
    status=NOT_MEASURED,
    checked_grids=((4, 4), (3, 5)),
    timed_grids=(((4, 6), 2),),
    heads=2,
    head_dim=16,
    t3=get_config("botnet_t3", **_SMALL_NETWORK),
    t3_size=(32, 48),
    t3_batch=2,
    t7=get_config("botnet_t7", **_SMALL_NETWORK),
    t7_size=(48, 32),
    t7_batch=2,
    efficientnet="test_efficientnet",
    efficientnet_size=(48, 48),
    compared_batch=2,
    # Traces and differentiates as the full sizes do, and leaves out minutes of generating code.
    torch_backend="aot_eager",
    rounds=2,
    turn_seconds=0.0,
    attention_turn_seconds=0.0,
)
