"""What a run would take, from a few of its steps: nothing is written."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import jax

from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.loader import training_batches
from bottleneck_transformer_flax.training.parts import TrainingParts, make_parts
from bottleneck_transformer_flax.training.setup import Plan
from bottleneck_transformer_flax.training.train_step import DeviceBatch

# Images that were read before the first step are used up in that time, and the readers then take
# their part of the processor.
_FEWEST_STEPS, _MOST_STEPS = 4, 100
_SECONDS = 6.0


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        steps: of the optimizer, in the whole run.
        images: read for training, in the whole run.
        evaluations: how often the test images are scored.
        devices: that it would run on.
        state_bytes: of parameters, averages and moments on each device.
        temporaries_bytes: beside them on each device during a step, by XLA's analysis; None where
            it gives none.
        compile_seconds: of the step.
        step_seconds: the mean of a few steps, waiting for images included.
        input_seconds: of these, waiting for images.
        evaluation_seconds: of all test images once.
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

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return (
            self.compile_seconds
            + self.steps * self.step_seconds
            + self.evaluations * self.evaluation_seconds
        )


def estimate(plan: Plan) -> Estimate:
    """Take a few steps of a run, at its final image size, and score a few test images.

    Raises:
        DataError: when an image cannot be read, and is not to be left out.
        ConfigError: when the devices of several processes do not divide the batch.
    """
    parts, config = make_parts(plan), plan.config
    batches = training_batches(
        plan.splits.train,
        plan.transform(config.epochs),
        batch_size=plan.batch_size,
        seed=config.seed,
        num_workers=config.input.num_workers,
        process_shard=parts.devices.process_shard,
        bad_images=BadImages(skip=config.input.skip_bad_images),
    )
    state = parts.state
    seconds: list[float] = []
    input_seconds: list[float] = []
    state_bytes = _bytes_on_one_device(state)
    evaluation_seconds = _evaluation_seconds(plan, parts)
    step: Any = None
    try:
        # The first compiles.
        while len(seconds) <= _FEWEST_STEPS or (
            sum(seconds[1:]) < _SECONDS and len(seconds) <= _MOST_STEPS
        ):
            start = time.perf_counter()
            batch = next(batches)
            input_seconds.append(time.perf_counter() - start)
            on_devices = parts.devices.place_batch(
                DeviceBatch(batch["image"], batch["label"], batch["valid"])
            )
            if step is None:
                compile_start = time.perf_counter()
                step = parts.train_step.lower(state, on_devices).compile()
                compile_seconds = time.perf_counter() - compile_start
            state, metrics = step(state, on_devices)
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - start)
    finally:
        batches.close()
    evaluations = len(
        {
            *range(config.evaluate_every_epochs, config.epochs + 1, config.evaluate_every_epochs),
            config.epochs,
        }
    )
    analysis = step.memory_analysis()
    return Estimate(
        steps=plan.total_steps,
        images=plan.total_steps * plan.batch_size,
        evaluations=evaluations,
        devices=parts.devices.num_devices,
        state_bytes=state_bytes,
        temporaries_bytes=None if analysis is None else analysis.temp_size_in_bytes,
        compile_seconds=compile_seconds,
        step_seconds=_later(seconds),
        input_seconds=_later(input_seconds),
        evaluation_seconds=evaluation_seconds,
    )


def _later(seconds: list[float]) -> float:
    """The mean over the second half of the steps."""
    return statistics.mean(seconds[len(seconds) // 2 :])


def _evaluation_seconds(plan: Plan, parts: TrainingParts) -> float:
    """Of all test images, from the second of two batches; the first compiles."""
    test, evaluator = plan.scored, parts.evaluator
    if test is None:
        return 0.0
    times: list[float] = []
    # Where there is but one batch, the second is the same once more.
    while len(times) < 2:
        evaluator(
            parts.state.inference_variables,
            test,
            bad_images=BadImages(skip=plan.config.input.skip_bad_images),
            on_batch=lambda _: times.append(time.perf_counter()),
            should_stop=lambda: len(times) >= 2,
        )
    return (times[1] - times[0]) * -(-len(test) // evaluator.batch_size)


def _bytes_on_one_device(state: Any) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
