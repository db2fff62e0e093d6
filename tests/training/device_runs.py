"""The first steps of a small network's training on some devices, from one state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.distributed import AXIS, DataParallel
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.training.config import OptimizerOptions
from bottleneck_transformer_flax.training.optimizer import make_optimizer
from bottleneck_transformer_flax.training.train_step import (
    DeviceBatch,
    create_state,
    make_train_step,
)
from training.tiny import CROPPED, SMALL, colour_images, labels_of

BATCH = 8
STEPS = 20
SGD = OptimizerOptions(optimizer="sgd", learning_rate=0.02, weight_decay=1e-4)
EVERYTHING = Augmentation(mixup_alpha=0.2, cutmix_alpha=1.0, erasing_probability=0.3)


def devices_of(count, *, shard_parameters=False):
    return DataParallel(Mesh(np.array(jax.devices()[:count]), (AXIS,)), shard_parameters)


def first_steps(devices, *, steps=STEPS, optimization=SGD, **changes):
    """The mean loss of each step, and the state after the last."""
    model = BoTNet(config=SMALL.replace(stochastic_depth_rate=0.2, dropout_rate=0.1, **changes))
    optimizer = make_optimizer(optimization, optax.constant_schedule(optimization.learning_rate))
    step = make_train_step(
        model,
        optimizer,
        CROPPED,
        seed=5,
        label_smoothing=0.1,
        ema_decay=0.9,
        augmentation=EVERYTHING,
        devices=devices,
    )
    variables = model.init(jax.random.key(1), jnp.zeros((1, 16, 16, 3)))
    state = create_state(variables, optimizer, average=True)
    if devices is not None:
        state = devices.place_state(state)
    losses = []
    for number in range(steps):
        batch = DeviceBatch(
            colour_images(BATCH, seed=number), labels_of(BATCH), np.arange(BATCH) != 3
        )
        if devices is not None:
            batch = devices.place_batch(batch)
        state, metrics = step(state, batch)
        losses.append(float(metrics.loss_sum) / int(metrics.images))
    return losses, state
