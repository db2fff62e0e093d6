"""The first steps of a small network's training on some devices, from one state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.distributed import AXIS, DataParallel
from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.layers.batch_norm import BatchNorm
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.training.config import OptimizerOptions
from bottleneck_transformer_flax.training.optimizer import make_optimizer
from bottleneck_transformer_flax.training.train_state import create_state
from bottleneck_transformer_flax.training.train_step import DeviceBatch, make_train_step
from training.tiny import CROPPED, SMALL, colour_images, labels_of

BATCH = 8
STEPS = 20
SGD = OptimizerOptions(optimizer="sgd", learning_rate=0.02, weight_decay=1e-4)
EVERYTHING = Augmentation(mixup_alpha=0.2, cutmix_alpha=1.0, erasing_probability=0.3)


class OneBlock(BoTNet):
    """Convolution, batch norm, attention, dropout and head: all that devices could disagree on."""

    def setup(self):
        pass

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(8, (4, 4), strides=4, name="stem")(images)
        groups = self.execution.batch_norm_groups
        x = nn.relu(BatchNorm(groups=groups, name="norm")(x, use_running_average=not train))
        x = RelativeSelfAttention(2, 4, name="attention")(x)
        x = nn.Dropout(0.1)(jnp.mean(x, (1, 2)), deterministic=not train)
        return nn.Dense(self.config.num_classes, name="head")(x)


def devices_of(count, *, shard_parameters=False):
    return DataParallel(Mesh(np.array(jax.devices()[:count]), (AXIS,)), shard_parameters)


def first_steps(devices, *, steps=STEPS, optimization=SGD, groups=1, network=OneBlock):
    """The mean loss of each step, and the state after the last."""
    config = SMALL.replace(stochastic_depth_rate=0.2, dropout_rate=0.1)
    model = network(config, Execution(batch_norm_groups=groups))
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
    state = devices.place_state(create_state(variables, optimizer, average=True))
    losses = []
    for number in range(steps):
        batch = DeviceBatch(
            colour_images(BATCH, seed=number), labels_of(BATCH), np.arange(BATCH) != 3
        )
        state, metrics = step(state, devices.place_batch(batch))
        losses.append(float(metrics.loss_sum) / int(metrics.images))
    return losses, state
