"""What a run would take, from a few of its steps: nothing is written."""

import math
import statistics
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.training.dispatch import (
    DispatchedStep,
    finished_steps,
    take_step,
)
from bottleneck_transformer_flax.training.metrics import StepInfo
from bottleneck_transformer_flax.training.setup import Setup
from bottleneck_transformer_flax.training.train_state import TrainState
from bottleneck_transformer_flax.training.train_step import DeviceBatch

# Long enough to use up the images read ahead: reading then takes its share of the processor.
_FEWEST_STEPS, _MOST_STEPS = 4, 100
_SECONDS, _MOST_SECONDS = 6.0, 60.0
# Part of a given time that goes into timing: the speed of a shared machine is not that of a moment.
_TIMED_PART = 0.02

# Part of a given time that is kept for a machine that becomes slower.
_RESERVE = 0.05
# To write the model and the pictures.
_WRITING_SECONDS = 5.0


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        steps: optimizer steps of the whole run.
        images: images read for training in the whole run.
        evaluations: number of validations.
        devices: number of devices.
        state_bytes: size of the state on each device.
        temporaries_bytes: further memory on each device during a step, by XLA's analysis; None
            where it gives none.
        compile_seconds: time to compile the step.
        step_seconds: time of a step, waiting for images included.
        input_seconds: part of that time spent waiting for images.
        evaluation_seconds: time of a validation.
        test_seconds: time to score the test images at the end; 0 without any.
    """

    steps: int
    images: int
    evaluations: int
    devices: int
    state_bytes: int
    temporaries_bytes: int | None
    compile_seconds: float
    step_seconds: float
    input_seconds: float
    evaluation_seconds: float
    test_seconds: float

    @property
    def seconds(self) -> float:
        """Time of the whole run."""
        return (
            self.compile_seconds
            + self.steps * self.step_seconds
            + self.evaluations * self.evaluation_seconds
            + self.test_seconds
        )


def timed_for(seconds: float) -> float:
    """Seconds of timing that pay in a run of so many seconds."""
    return min(max(_SECONDS, _TIMED_PART * seconds), _MOST_SECONDS)


def fitting_steps(setup: Setup, found: Estimate, seconds: float) -> int:
    """The steps that fit into some seconds from now, with a validation after every epoch.

    Raises:
        ConfigError: when not even one epoch fits.
    """
    epoch_seconds = setup.steps_per_epoch * found.step_seconds + found.evaluation_seconds
    other_seconds = found.compile_seconds + found.test_seconds + _WRITING_SECONDS
    epochs = (seconds * (1 - _RESERVE) - other_seconds) / epoch_seconds
    if epochs < 1:
        raise ConfigError(
            f"no epoch fits into the time: one takes {epoch_seconds:.0f} s here, and everything "
            f"else {other_seconds:.0f} s more; give it more --time, or train a smaller model"
        )
    # The last epoch, however short, is validated like any other.
    missing_seconds = found.evaluation_seconds * (math.ceil(epochs) - epochs)
    steps = int(epochs * setup.steps_per_epoch - missing_seconds / found.step_seconds)
    return max(steps, int(epochs) * setup.steps_per_epoch)


def estimate(setup: Setup, *, seconds: float = _SECONDS) -> Estimate:
    """Score some images and take a few steps, at the run's final image size.

    Args:
        setup: the run's setup.
        seconds: for how long to take steps, the later half of which is timed.

    Raises:
        DataError: when an image cannot be read, and is not to be skipped.
    """
    config, splits = setup.config, setup.splits
    bad_images, state = BadImages(skip=config.input.skip_bad_images), setup.initial_state()
    state_bytes = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    image_seconds = _seconds_per_scored_image(setup, state, bad_images)
    started = time.perf_counter()
    learning_rate = setup.learning_rates[0]
    compiled = setup.train_step.lower(state, _abstract_batch(setup), learning_rate).compile()
    compile_seconds = time.perf_counter() - started
    steps = _take_steps(replace(setup, train_step=compiled), state, bad_images, seconds)
    later = steps[len(steps) // 2 :]
    analysis = compiled.memory_analysis()
    due = {*range(0, config.epochs + 1, config.evaluate_every_epochs), config.epochs} - {0}
    return Estimate(
        steps=setup.total_steps,
        images=setup.total_steps * setup.batch_size,
        evaluations=0 if splits.validation is None else len(due),
        devices=setup.devices.num_devices,
        state_bytes=state_bytes,
        temporaries_bytes=None if analysis is None else analysis.temp_size_in_bytes,
        compile_seconds=compile_seconds,
        step_seconds=statistics.mean(step.seconds for step in later),
        input_seconds=statistics.mean(step.input_seconds for step in later),
        evaluation_seconds=image_seconds * len(splits.validation or ()),
        test_seconds=image_seconds * len(splits.test or ()),
    )


def _take_steps(
    setup: Setup, state: TrainState, bad_images: BadImages, seconds: float
) -> list[StepInfo]:
    """The first steps of the last epoch, whose images have the final size."""
    before = max(0, setup.total_steps - setup.steps_per_epoch)
    in_flight, steps = deque[DispatchedStep](), list[StepInfo]()
    with closing(setup.batches(before, bad_images)) as batches:
        while len(steps) < _FEWEST_STEPS or (
            sum(step.seconds for step in steps) < seconds and len(steps) < _MOST_STEPS
        ):
            # Always the same number: beyond the run's end there is no learning rate to look up.
            state = take_step(setup, state, before + 1, batches, in_flight)
            steps += finished_steps(in_flight)
    return steps


def _abstract_batch(setup: Setup) -> Any:
    """Shapes and placement of a batch of the final image size."""

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        sharding = setup.devices.batch_sharding
        return jax.ShapeDtypeStruct((setup.batch_size, *shape), dtype, sharding=sharding)

    image = array(jnp.uint8, *setup.preprocessing.size, 3)
    return DeviceBatch._make((image, array(jnp.int32), array(jnp.bool_)))


def _seconds_per_scored_image(setup: Setup, state: TrainState, bad_images: BadImages) -> float:
    """Time to score an image, from a few batches; 0 where the run has none to score."""
    source = setup.splits.validation or setup.splits.test
    if source is None:
        return 0.0
    batch_size = min(setup.evaluator.batch_size, len(source))
    moments: list[float] = []
    # The first pass compiles.
    for _ in range(2):
        moments[:] = [time.perf_counter()]
        setup.evaluator(
            state.inference_variables,
            source,
            bad_images=bad_images,
            on_batch=lambda _: moments.append(time.perf_counter()),
            should_stop=lambda: len(moments) > 3,
        )
    return min(after - before for before, after in pairwise(moments)) / batch_size
