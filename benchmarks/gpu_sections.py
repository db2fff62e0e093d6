"""The sections of the GPU script: what is measured, and at which sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import jax

from benchmarks import gpu_attention
from benchmarks.cases import Case, Workload
from benchmarks.implementations import COMPILED, NETWORKS, OURS, Implementation
from benchmarks.results import MEASURED, NOT_MEASURED, Row
from benchmarks.timing import Pace, measure, started
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.execution import AttentionBackend, Execution
from bottleneck_transformer_flax.models.variants import get_config

CORRECTNESS, SPEED, HEADLINE = "attention-correctness", "attention-speed", "t7-efficientnet"
ATTENTION: tuple[Workload, ...] = ("attention", "attention-training")
FLOAT32_DIFFERENCE = 1e-3
"""Largest difference of T3's logits and losses from timm's in float32, relative to the largest."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured at which sizes.

    Attributes:
        status: status of every row that does not fail.
        checked_grids: (height, width) of the grids on which attention is checked.
        timed_grids: (height, width) and batch size of the grids on which attention is timed.
        heads: attention heads where attention is checked, of size ``head_dim``.
        t3: the network to time beside timm's, on images of ``t3_size``.
        t3_batch: batch size of both.
        compared_batch: batch size at which their outputs are compared in float32.
        t7: the network to time beside an EfficientNet, on images of ``t7_size``.
        t7_batch: batch size of both.
        efficientnet: timm's name of the EfficientNet, on images of ``efficientnet_size``.
        torch_backend: the backend that torch.compile is given.
        pace: how often and how long each is timed.
    """

    status: str
    checked_grids: tuple[tuple[int, int], ...]
    timed_grids: tuple[tuple[tuple[int, int], int], ...]
    heads: int
    head_dim: int
    t3: BoTNetConfig
    t3_size: tuple[int, int]
    t3_batch: int
    compared_batch: int
    t7: BoTNetConfig
    t7_size: tuple[int, int]
    t7_batch: int
    efficientnet: str
    efficientnet_size: tuple[int, int]
    torch_backend: str
    pace: Pace

    def case(
        self, section: str, workload: Workload, size: tuple[int, int], batch_size: int
    ) -> Case:
        """Make a section's case, on the GPU if there is one: T7 for the headline, else T3."""
        of_t7 = section == HEADLINE
        return Case(
            workload=workload,
            variant="botnet_t7" if of_t7 else "botnet_t3",
            config=self.t7 if of_t7 else self.t3,
            size=size,
            batch_size=batch_size,
            device="cuda" if jax.default_backend() == "gpu" else "cpu",
            torch_backend=self.torch_backend,
            section=section,
            status=self.status,
            largest_difference=FLOAT32_DIFFERENCE,
            counted=False,
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
    compared_batch=8,
    t7=get_config("botnet_t7", dtype="bfloat16"),
    t7_size=(384, 384),
    t7_batch=32,
    efficientnet="efficientnet_b7",
    efficientnet_size=(600, 600),
    torch_backend="inductor",
    pace=Pace(rounds=7, turn_seconds=0.3, fewest_calls=2),
)
_SMALL_NETWORK = {
    "stage_sizes": (1, 1, 1, 1),
    "initial_filters": 8,
    "head_dim": 16,
    "num_classes": 10,
    "dtype": "bfloat16",
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
    compared_batch=2,
    t7=get_config("botnet_t7", **_SMALL_NETWORK),
    t7_size=(48, 32),
    t7_batch=2,
    efficientnet="test_efficientnet",
    efficientnet_size=(48, 48),
    # Traces and differentiates as the full sizes do, and leaves out minutes of generating code.
    torch_backend="aot_eager",
    pace=Pace(rounds=2, turn_seconds=0.0, fewest_calls=2),
)


def check_attention(settings: Settings) -> list[Row]:
    """Compare the fused attention's output and gradients with the reference's."""
    row = Row(benchmark=CORRECTNESS, case="attention", batch_size=2, status=settings.status)
    return gpu_attention.check(settings.checked_grids, settings.heads, settings.head_dim, row)


def time_attention(settings: Settings) -> list[Row]:
    """Measure time and memory of the attention layer with each backend, in bfloat16."""
    names: tuple[AttentionBackend, ...] = ("fused", "reference", "blockwise")
    backends = {
        str(name): Implementation("ours", {"execution": Execution(attention_backend=name)})
        for name in names
    }
    rows: list[Row] = []
    with started(backends) as workers:
        for grid, batch_size in settings.timed_grids:
            for workload in ATTENTION:
                case = settings.case(SPEED, workload, grid, batch_size)
                # Both are in bfloat16; correctness has a section of its own.
                case = replace(case, largest_difference=float("inf"))
                rows += measure(case, list(backends), workers, settings.pace)
    return rows


def time_t3(settings: Settings, workload: Workload) -> list[Row]:
    """T3 with everything on the device beside timm's, for inference with folded norms.

    Both are compared in float32 and timed in bfloat16, where they differ by what rounding makes of
    some fifty layers, which is not judged.
    """
    case = settings.case(f"t3-{workload}", workload, settings.t3_size, settings.t3_batch)
    compared = replace(
        case,
        config=case.config.replace(dtype="float32"),
        batch_size=settings.compared_batch,
        exact=True,
    )
    names = {name: NETWORKS[name] for name in (OURS, COMPILED)}
    return _measure(case, names, settings.pace, compared)


def time_headline(settings: Settings) -> list[Row]:
    """Time the gradients of a batch's mean loss, without an update: T7 and an EfficientNet."""
    case = settings.case(HEADLINE, "gradients", settings.t7_size, settings.t7_batch)
    height, width = settings.efficientnet_size
    peer = {"compiled": True, "network": settings.efficientnet, "size": (height, width)}
    names = {
        OURS: NETWORKS[OURS],
        f"{settings.efficientnet} {height} × {width}": Implementation("torch_peers", peer),
    }
    return _measure(case, names, settings.pace)


def _measure(
    case: Case, names: Mapping[str, Implementation], pace: Pace, compared: Case | None = None
) -> list[Row]:
    with started(names) as workers:
        return measure(case, list(names), workers, pace, compared=compared)


SECTIONS: Mapping[str, Callable[[Settings], list[Row]]] = {
    CORRECTNESS: check_attention,
    SPEED: time_attention,
    "t3-inference": partial(time_t3, workload="inference"),
    HEADLINE: time_headline,
    "t3-training": partial(time_t3, workload="training"),
}
"""Functions to the rows of each section."""
