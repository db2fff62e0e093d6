"""Training on several devices is training on one."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from bottleneck_transformer_flax.distributed import make_data_parallel
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.training.config import OptimizerOptions
from training.device_runs import STEPS, devices_of, first_steps

TOLERANCE = 1e-5


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


def test_statistics_of_each_device_are_those_of_groups():
    grouped, _ = first_steps(devices_of(1), groups=2, steps=3)
    on_two, _ = first_steps(devices_of(2), groups=2, steps=3)
    whole, _ = first_steps(devices_of(1), steps=3)
    np.testing.assert_allclose(on_two, grouped, rtol=0, atol=TOLERANCE)
    assert np.abs(np.subtract(on_two, whole)).max() > 20 * TOLERANCE


def test_as_many_devices_are_used_as_divide_the_batch(caplog):
    assert make_data_parallel(6).num_devices == 2
    assert not caplog.messages
    assert make_data_parallel(7).num_devices == 1
    assert "1 of 2 devices are used" in caplog.text
    assert "the 7 images that are computed at a time" in caplog.text


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
from training.device_runs import devices_of, first_steps
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
