"""What a run computes with: built from its plan, before the first step."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bottleneck_transformer_flax.axes import Float
from bottleneck_transformer_flax.distributed import DataParallel, make_data_parallel
from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
from bottleneck_transformer_flax.training.optimizer import learning_rate_schedule, make_optimizer
from bottleneck_transformer_flax.training.setup import Plan
from bottleneck_transformer_flax.training.start import initial_variables
from bottleneck_transformer_flax.training.train_step import (
    TrainState,
    TrainStep,
    create_state,
    make_train_step,
)

_LARGEST_EVALUATION_BATCH = 250


class TrainingParts(NamedTuple):
    """The parts of a run that compute.

    Attributes:
        devices: where.
        learning_rates: of every step of the run.
        train_step: from a state and a batch to the next state.
        evaluator: scores the model.
        state: before the first step, on the devices.
    """

    devices: DataParallel
    learning_rates: Float[np.ndarray, " steps"]
    train_step: TrainStep
    evaluator: Evaluator
    state: TrainState


def make_parts(plan: Plan) -> TrainingParts:
    """Build them; nothing is compiled but the first state and the learning rates.

    Raises:
        ConfigError: when the devices of several processes do not divide the batch.
    """
    config, optimization = plan.config, plan.config.optimization
    schedule = learning_rate_schedule(
        optimization, steps_per_epoch=plan.steps_per_epoch, epochs=config.epochs
    )
    devices = make_data_parallel(
        plan.batch_size // optimization.accumulation_steps,
        shard_parameters=optimization.shard_parameters,
    )
    optimizer = make_optimizer(optimization, schedule, plan.part_rates)
    train_step = make_train_step(
        plan.training_model,
        optimizer,
        plan.preprocessing,
        seed=config.seed,
        label_smoothing=optimization.label_smoothing,
        accumulation_steps=optimization.accumulation_steps,
        ema_decay=optimization.ema_decay,
        augmentation=config.augmentation,
        devices=devices,
    )
    evaluator = Evaluator(
        plan.model,
        plan.preprocessing,
        batch_size=min(plan.batch_size * 4, _LARGEST_EVALUATION_BATCH),
        num_workers=config.input.num_workers,
        devices=devices,
    )
    average = optimization.ema_decay is not None
    # As one program each: JAX would compile one for every operation on every shape.
    learning_rates = np.asarray(jax.jit(schedule)(jnp.arange(plan.total_steps)))
    create = jax.jit(partial(create_state, optimizer=optimizer, average=average))
    state = create(initial_variables(plan))
    state = devices.place_state(state)
    return TrainingParts(devices, learning_rates, train_step, evaluator, state)
