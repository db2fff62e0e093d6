"""The sections of the GPU script: what is measured, and at which sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax

from benchmarks import gpu_attention
from benchmarks.cases import Case, Workload
from benchmarks.implementations import COMPILED, NETWORKS, OURS, Implementation
from benchmarks.results import MEASURED, NOT_MEASURED, Row
from benchmarks.timing import Pace, measure, started
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.execution import AttentionBackend, Execution
from bottleneck_transformer_flax.models.variants import get_config

CORRECTNESS, SPEED = "attention-correctness", "attention-speed"
T3_INFERENCE, T3_TRAINING, HEADLINE = "t3-inference", "t3-training", "t7-efficientnet"
ATTENTION: tuple[Workload, ...] = ("attention", "attention-training")
FLOAT32_DIFFERENCE = 1e-3
"""Largest difference of T3's logits and losses from timm's in float32, relative to the largest."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured at which sizes.

    Attributes:
        status: status of every row that does not fail.
        checked_grids: height and width of the grids that attention is checked over.
        timed_grids: height and width of those that it is timed over, each with its batch size.
        heads: heads of attention where it is checked, of ``head_dim`` each.
        t3: the network compared with timm's, for images of ``t3_size``.
        t3_batch: images a batch.
        compared_batch: images of the batch at which T3 is compared with timm's in float32.
        t7: the network compared with an EfficientNet, for images of ``t7_size``.
        t7_batch: images a batch of both.
        efficientnet: timm's name of it, for images of ``efficientnet_size``.
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
        """A case of a section, on the GPU if there is one: of T7 in the headline, else of T3."""
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
            tolerance=FLOAT32_DIFFERENCE,
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
    """The fused attention's output and gradients, beside the reference's own rounding."""
    row = Row(benchmark=CORRECTNESS, case="attention", batch_size=2, status=settings.status)
    return gpu_attention.check(settings.checked_grids, settings.heads, settings.head_dim, row)


def time_attention(settings: Settings) -> list[Row]:
    """Time and memory of the attention layer with each backend, in bfloat16."""
    names: tuple[AttentionBackend, ...] = ("fused", "reference", "blockwise")
    backends = {
        str(name): Implementation("ours", {"execution": Execution(attention_backend=name)})
        for name in names
    }
    rows: list[Row] = []
    with started(backends) as worker:
        for grid, batch_size in settings.timed_grids:
            for workload in ATTENTION:
                case = settings.case(SPEED, workload, grid, batch_size)
                # Both are in bfloat16; correctness has a section of its own.
                case = replace(case, tolerance=float("inf"))
                rows += measure(case, list(backends), worker, settings.pace)
    return rows


def time_t3_inference(settings: Settings) -> list[Row]:
    """Logits of normalised images on the device, ours with folded norms, beside timm's."""
    return _time_t3(T3_INFERENCE, "inference", settings)


def time_t3_training(settings: Settings) -> list[Row]:
    """Updates by SGD with momentum from images that are on the device, beside timm's."""
    return _time_t3(T3_TRAINING, "training", settings)


def _time_t3(section: str, workload: Workload, settings: Settings) -> list[Row]:
    """Compare both in float32, then time them in bfloat16.

    In bfloat16 they differ by what rounding makes of some fifty layers, which is not judged.
    """
    case = settings.case(section, workload, settings.t3_size, settings.t3_batch)
    compared = replace(
        case,
        config=case.config.replace(dtype="float32"),
        batch_size=settings.compared_batch,
        exact=True,
    )
    names = {name: NETWORKS[name] for name in (OURS, COMPILED)}
    return _measure(case, names, settings.pace, compared)


def time_headline(settings: Settings) -> list[Row]:
    """The gradients of a batch's mean loss, with no update: T7 and an EfficientNet."""
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
    with started(names) as worker:
        return measure(case, list(names), worker, pace, compared=compared)


class Section(NamedTuple):
    """A part of the script.

    Attributes:
        measure: a function to its rows.
        expected_seconds: seconds it takes at full sizes, compiling included, rather too many.
    """

    measure: Callable[[Settings], list[Row]]
    expected_seconds: float


SECTIONS: Mapping[str, Section] = {
    CORRECTNESS: Section(check_attention, 60),
    SPEED: Section(time_attention, 60),
    T3_INFERENCE: Section(time_t3_inference, 100),
    HEADLINE: Section(time_headline, 220),
    T3_TRAINING: Section(time_t3_training, 170),
}
