"""Steps on the device: dispatched one after the other, and waited for."""

import time
from collections import deque
from collections.abc import Generator, Iterator
from typing import NamedTuple

from bottleneck_transformer_flax.data.batches import Batch
from bottleneck_transformer_flax.distributed import STEPS_IN_FLIGHT
from bottleneck_transformer_flax.training.metrics import StepInfo, StepMetrics
from bottleneck_transformer_flax.training.setup import Setup
from bottleneck_transformer_flax.training.train_state import TrainState
from bottleneck_transformer_flax.training.train_step import DeviceBatch


class DispatchedStep(NamedTuple):
    """A step that was dispatched to the device, which may still be computing it."""

    step: int
    metrics: StepMetrics
    learning_rate: float
    started: float
    input_seconds: float


def take_step(
    setup: Setup,
    state: TrainState,
    step: int,
    batches: Generator[Batch, None, None],
    in_flight: deque[DispatchedStep],
) -> TrainState:
    """Dispatch the next step to the device, and return the state that it will compute.

    The batch is read and placed while the device still computes the steps before.
    """
    started = time.perf_counter()
    batch = next(batches)
    input_seconds = time.perf_counter() - started
    placed = setup.devices.place_batch(DeviceBatch(batch["image"], batch["label"], batch["valid"]))
    learning_rate = setup.learning_rates[step - 1]
    state, metrics = setup.train_step(state, placed, learning_rate)
    in_flight.append(DispatchedStep(step, metrics, float(learning_rate), started, input_seconds))
    return state


def finished_steps(
    in_flight: deque[DispatchedStep], *, leave: int = STEPS_IN_FLIGHT
) -> Iterator[StepInfo]:
    """Remove all steps but the newest ``leave``, oldest first, and wait for their metrics.

    The number left is fixed, so that several processes read the same step at the same time.
    """
    while len(in_flight) > leave:
        step, metrics, learning_rate, started, input_seconds = in_flight.popleft()
        numbers = {name: value.item() for name, value in metrics._asdict().items()}
        ended = in_flight[0].started if in_flight else time.perf_counter()
        yield StepInfo(
            step=step,
            **numbers,
            learning_rate=learning_rate,
            seconds=ended - started,
            input_seconds=input_seconds,
        )
