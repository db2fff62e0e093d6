"""Training on several devices is training on one, from one state over the first steps."""

import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.distributed import AXIS, DataParallel, make_data_parallel
from bottleneck_transformer_flax.layers.attention import RelativeSelfAttention
from bottleneck_transformer_flax.layers.batch_norm import BatchNorm
from bottleneck_transformer_flax.layers.dropout import Dropout
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.training.config import OptimizerOptions
from bottleneck_transformer_flax.training.optimizer import make_optimizer
from bottleneck_transformer_flax.training.train_state import create_state
from bottleneck_transformer_flax.training.train_step import make_train_step
from training.tiny import CROPPED, SMALL, batch_of

BATCH = 8
STEPS = 20
TOLERANCE = 1e-5
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
        x = Dropout(0.1)(jnp.mean(x, (1, 2)), deterministic=not train)
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
        batch = batch_of(BATCH, np.arange(BATCH) != 3, seed=number)
        state, metrics = step(state, devices.place_batch(batch))
        losses.append(float(metrics.loss_sum) / int(metrics.images))
    return losses, state


@pytest.fixture(scope="module")
def on_one():
    return first_steps(devices_of(1))


def assert_same_losses(losses, expected):
    assert len(losses) == STEPS
    np.testing.assert_allclose(losses, expected, rtol=0, atol=TOLERANCE)
    assert np.ptp(expected) > 0.1


def test_two_devices_have_the_losses_of_one(on_one):
    losses, state = first_steps(devices_of(2))
    assert_same_losses(losses, on_one[0])
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))


def test_sharded_parameters_have_the_same_losses_in_less_memory(on_one):
    losses, state = first_steps(devices_of(2, shard_parameters=True))
    assert_same_losses(losses, on_one[0])
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    on_first = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert on_first < 0.55 * whole


def test_statistics_of_each_device_are_those_of_groups(on_one):
    grouped, _ = first_steps(devices_of(1), groups=2, steps=3)
    on_two, _ = first_steps(devices_of(2), groups=2, steps=3)
    np.testing.assert_allclose(on_two, grouped, rtol=0, atol=TOLERANCE)
    assert np.abs(np.subtract(on_two, on_one[0][:3])).max() > 20 * TOLERANCE


def test_as_many_devices_are_used_as_divide_the_batch(caplog):
    assert make_data_parallel(6).num_devices == 2
    assert not caplog.messages
    assert make_data_parallel(7).num_devices == 1
    assert "1 of 2 devices are used" in caplog.text
    assert "the 7 images that are computed at a time" in caplog.text


@pytest.mark.slow
def test_explicit_axes_have_the_losses_of_one(on_one):
    """The default of ``jax.make_mesh``."""
    losses, _ = first_steps(DataParallel(jax.make_mesh((2,), (AXIS,))), steps=3)
    np.testing.assert_allclose(losses, on_one[0][:3], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_muon_on_two_devices_with_sharded_parameters_is_muon_on_one():
    muon = OptimizerOptions(optimizer="muon", learning_rate=2e-3, momentum=0.95, weight_decay=0.01)
    runs = [
        first_steps(devices, optimization=muon, network=BoTNet)[0]
        for devices in (devices_of(1), devices_of(2, shard_parameters=True))
    ]
    assert_same_losses(*runs)


EIGHT = """
import json, jax
from bottleneck_transformer_flax.models.botnet import BoTNet
from training.test_devices import devices_of, first_steps
assert len(jax.devices()) == 8
devices = {f"{n}": devices_of(n) for n in (1, 4, 8)}
devices["8 sharded"] = devices_of(8, shard_parameters=True)
print(json.dumps({name: first_steps(d, network=BoTNet)[0] for name, d in devices.items()}))
"""


@pytest.mark.slow
def test_up_to_eight_devices_have_a_real_networks_losses_on_one():
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=2", "count=8"),
        "PYTHONPATH": os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", EIGHT], env=environment, capture_output=True, text=True, check=True
    )
    runs = json.loads(done.stdout.splitlines()[-1])
    for name in ("4", "8", "8 sharded"):
        assert_same_losses(runs[name], runs["1"])
