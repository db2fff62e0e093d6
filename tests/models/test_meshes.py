"""On JAX's meshes and under its transformations a network computes what it does on one device."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.execution import Execution
from reference.small_models import SMALL_MODELS, small_images, small_variables

NAME = "botnet_t3"
# Of logits, gradients and statistics. Gradients of one device differ by 2e-5 from themselves where
# the images come in reverse: each is a long sum, in another order.
TOLERANCES = np.array([1e-5, 5e-5, 1e-5])
DATA, MODEL = "data", "model"
EXECUTIONS = [
    {"attention_backend": "blockwise"},
    {"attention_backend": "fused"},
    {"attention_backend": "reference", "convolution_algorithm": "plain"},
    {"remat": True},
    {"frozen_through": "c3", "frozen_batch_stats": True},
    {"batch_norm_groups": 4},
]


def one_axis(kind=AxisType.Explicit):
    return jax.make_mesh((len(jax.devices()),), (DATA,), (kind,))


def meshes():
    """One axis or two, Explicit or Auto, over all devices, and the axes of the batch."""
    for kind in (AxisType.Explicit, AxisType.Auto):
        yield one_axis(kind), DATA
        two_axes = jax.make_mesh((2, len(jax.devices()) // 2), (DATA, MODEL), (kind, kind))
        yield two_axes, DATA
        yield two_axes, (DATA, MODEL)


# The same function for the same network, so that one device's is compiled once.
@functools.cache
def network(name=NAME, dtype="float32", dropping=True, **execution):
    """(variables, images, key) → the logits; the gradients of a loss; the new statistics."""
    # With a ReLU, rounding makes gradients jump where its input is nearly zero.
    config = SMALL_MODELS[name].config.replace(activation="silu", dtype=dtype)
    if dropping:
        config = config.replace(dropout_rate=0.1, stochastic_depth_rate=0.2)
    model = BoTNet(config, Execution(**execution))

    def loss(params, variables, images, key):
        logits, state = model.apply(
            variables | {"params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return -jnp.mean(jax.nn.log_softmax(logits)[:, 0]), state["batch_stats"]

    def compute(variables, images, key):
        differentiate = jax.grad(loss, has_aux=True)
        return model.apply(variables, images), *differentiate(
            variables["params"], variables, images, key
        )

    return compute


def arguments(name=NAME):
    return small_variables(name), small_images(name, batch=4), jax.random.key(3)


def placed(arrays, mesh, batch):
    """The images sharded over the axes of the batch, all else replicated."""
    specs = [PartitionSpec(), PartitionSpec(batch), PartitionSpec()]
    return jax.device_put(arrays, tuple(NamedSharding(mesh, spec) for spec in specs))


def difference(found, expected):
    """The largest of logits, gradients and statistics, relative to the largest of them or to 1."""
    largest = []
    for ours, theirs in zip(found, expected, strict=True):
        pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
        scale = max(1.0, *(float(np.abs(right).max()) for _, right in pairs))
        largest.append(max(float(np.abs(left - right).max()) for left, right in pairs) / scale)
    return np.array(largest)


def on_mesh(mesh, batch, name=NAME, in_context=False, **options):
    """What one device computes, then what the mesh does, perhaps also as the mesh in context."""
    compute, arrays = network(name, **options), arguments(name)
    results = [jax.jit(compute)(*arrays), jax.jit(compute)(*placed(arrays, mesh, batch))]
    if in_context:
        with jax.set_mesh(mesh):
            results.append(jax.jit(compute)(*placed(arrays, mesh, batch)))
    by_batch = NamedSharding(mesh, PartitionSpec(batch))
    assert all(logits.sharding.is_equivalent_to(by_batch, 2) for logits, *_ in results[1:])
    return jax.device_get(results)


def differences(mesh, batch, name=NAME, **options):
    """Of the mesh from one device."""
    expected, *found = on_mesh(mesh, batch, name, **options)
    return np.max([difference(each, expected) for each in found], axis=0)


def test_on_explicit_axes_logits_are_sharded_as_the_batch_and_all_else_replicated():
    arrays = placed(arguments(), one_axis(), DATA)
    logits, *others = jax.jit(network()).trace(*arrays).jaxpr.out_avals
    assert logits.sharding.spec == PartitionSpec(DATA, None)
    assert all(set(other.sharding.spec) <= {None} for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL_MODELS])
def test_every_kind_is_one_devices_on_explicit_axes(name):
    assert (differences(one_axis(), DATA, name) < TOLERANCES).all()


@pytest.mark.slow
@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_every_execution_is_one_devices_on_explicit_axes(execution):
    assert (differences(one_axis(), DATA, **execution) < TOLERANCES).all()


@pytest.mark.slow
def test_bfloat16_is_as_near_to_float32_as_on_one_device():
    exact = jax.device_get(jax.jit(network())(*arguments()))
    of_one, *errors = (
        difference(each, exact) for each in on_mesh(one_axis(), DATA, dtype="bfloat16")
    )
    assert (errors < 2 * of_one + TOLERANCES).all()
    assert (of_one > TOLERANCES).all()


FOUR = """
import json
from models.test_meshes import differences, meshes
options = {"in_context": True, "batch_norm_groups": 2}
print(json.dumps([[*differences(mesh, axes, **options)] for mesh, axes in meshes()]))
"""


@pytest.mark.slow
def test_meshes_of_one_and_two_axes_over_four_devices_are_one_devices():
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=2", "count=4"),
        "PYTHONPATH": os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", FOUR], env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 6
    assert (np.array(found) < TOLERANCES).all(), found


def by_vmap(compute, mesh):
    return jax.jit(jax.vmap(compute, in_axes=(None, 0, None)))


def by_pmap(compute, mesh):
    return jax.pmap(compute, in_axes=(None, 0, None))


def by_shard_map(compute, mesh):
    """Each device keeps its own gradients, those of its part of the batch."""

    def part(variables, images, key):
        results = compute(jax.lax.pcast(variables, DATA, to="varying"), images[0], key)
        return jax.tree.map(lambda result: result[None], results)

    specs = PartitionSpec(), PartitionSpec(DATA), PartitionSpec()
    return jax.jit(jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(DATA)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        (AxisType.Auto, "auto"),
        (AxisType.Explicit, "auto"),
        (AxisType.Explicit, "blockwise"),
        (AxisType.Explicit, "fused"),
    ],
)
@pytest.mark.parametrize("transform", [by_vmap, by_pmap, by_shard_map])
def test_parts_of_a_batch_are_as_many_norm_groups(transform, kind, backend):
    """With gradients and statistics averaged over the parts."""
    mesh, (variables, images, key) = one_axis(kind), arguments()
    settings = {"attention_backend": backend, "dropping": False}
    grouped = jax.jit(network(batch_norm_groups=2, **settings))(variables, images, key)
    arrays = variables, images.reshape(2, 2, *images.shape[1:]), key
    if transform is not by_pmap:
        arrays = placed(arrays, mesh, DATA)
    logits, *others = transform(network(**settings), mesh)(*arrays)
    averaged = jax.tree.map(functools.partial(np.mean, axis=0), jax.device_get(others))
    found = logits.reshape(4, -1), *averaged
    assert (difference(jax.device_get(found), jax.device_get(grouped)) < TOLERANCES).all()
