"""Steps whose results are not read yet: the device always has a next one to compute."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import jax

from bottleneck_transformer_flax.training.train_step import StepMetrics

_MOST_STEPS = 2


class StepResult(NamedTuple):
    """What is known of a step once it is done.

    Attributes:
        step: its number, from 1.
        loss_sum: over its valid images.
        correct: of these, those whose class was the most probable.
        images: the valid ones.
        gradient_norm: of all parameters together.
        update_norm: of all parameters together.
        stop: whether any process was asked to stop before it.
        seconds: from the start of this step to that of the next.
        input_seconds: of these, how long its images were waited for.
    """

    step: int
    loss_sum: float
    correct: int
    images: int
    gradient_norm: float
    update_norm: float
    stop: bool
    seconds: float
    input_seconds: float


class _Step(NamedTuple):
    step: int
    metrics: StepMetrics
    stop: bool | jax.Array
    seconds: float
    input_seconds: float


class StepsInFlight:
    """A queue of steps that the device was given, in order."""

    def __init__(self) -> None:
        """With none."""
        self._steps: deque[_Step] = deque()

    def add(
        self,
        step: int,
        metrics: StepMetrics,
        *,
        stop: bool | jax.Array,
        seconds: float,
        input_seconds: float,
    ) -> None:
        """One more step; its metrics may still be computed."""
        self._steps.append(_Step(step, metrics, stop, seconds, input_seconds))

    def results(self, *, all_of_them: bool = False) -> Iterator[StepResult]:
        """Those of all but the last few steps, or of all, each once; waits for them.

        A fixed number stays, so that several processes read the same step at the same time.
        """
        while len(self._steps) > (0 if all_of_them else _MOST_STEPS):
            step, metrics, stop, seconds, input_seconds = self._steps.popleft()
            yield StepResult(
                step=step,
                loss_sum=float(metrics.loss_sum),
                correct=int(metrics.correct),
                images=int(metrics.images),
                gradient_norm=float(metrics.gradient_norm),
                update_norm=float(metrics.update_norm),
                stop=bool(stop),
                seconds=seconds,
                input_seconds=input_seconds,
            )
