"""Data parallelism: joining processes, the device mesh, shardings, and what processes agree on."""

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bottleneck_transformer_flax.errors import BoTNetError, ConfigError, TrainingError

AXIS = "images"
"""The only axis of the mesh: the images of a batch are sharded over it."""
STEPS_IN_FLIGHT = 2
"""Steps whose results nobody waits for yet, so that the devices always have a next one."""
_HEARTBEAT_SECONDS = 30
_JOIN_SECONDS = 300
_SETUP_SECONDS = 3600
Tree = TypeVar("Tree")
Built = TypeVar("Built")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataParallel:
    """The devices of a run as one mesh, and whether the state is sharded over them."""

    mesh: Mesh
    shard_parameters: bool = False

    @property
    def is_single_process(self) -> bool:
        """Whether this is the run's only process."""
        return jax.process_count() == 1

    @property
    def num_devices(self) -> int:
        """Number of devices, over all processes."""
        return self.mesh.size

    @property
    def process_shard(self) -> tuple[int, int]:
        """This process's index and the number of processes."""
        return jax.process_index(), jax.process_count()

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of an array that is whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_sharding(self) -> NamedSharding:
        """Sharding of an array whose first axis is spread over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def state_shardings(self, state: Any) -> Any:
        """Sharding of each array of a state, along its longest axis that the devices divide."""
        return jax.tree.map(self._sharding, state)

    def _sharding(self, leaf: Any) -> NamedSharding:
        axes = [
            axis for axis, size in enumerate(leaf.shape) if size and size % self.num_devices == 0
        ]
        if not (self.shard_parameters and axes):
            return self.replicated
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, AXIS))

    def constrain_state(self, state: Tree) -> Tree:
        """Within a jitted function: the state, laid out as ``place_state`` does."""
        return jax.lax.with_sharding_constraint(state, self.state_shardings(state))

    def constrain_replicated(self, tree: Tree) -> Tree:
        """Within a jitted function: the arrays, replicated on every device."""
        return jax.lax.with_sharding_constraint(tree, self.replicated)

    def place_state(self, state: Tree) -> Tree:
        """A state that is the same in every process, laid out on the devices."""

        def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
            value = np.asarray(leaf)
            return jax.make_array_from_callback(value.shape, sharding, lambda part: value[part])

        return jax.tree.map(place, state, self.state_shardings(state))

    def place_batch(self, batch: Tree) -> Tree:
        """The global batch on the devices, from each process's shard of its rows."""
        return jax.tree.map(
            lambda rows: jax.make_array_from_process_local_data(
                self.batch_sharding, np.asarray(rows)
            ),
            batch,
        )

    def any_process(self, flag: bool) -> bool | jax.Array:
        """Whether any process has the flag set; known once all processes have called this."""
        if self.is_single_process:
            return flag
        flags = np.full(jax.local_device_count(), flag)
        return _any(self.place_batch(flags), self.replicated)

    def replicate(self, tree: Tree) -> Tree:
        """A sharded tree with every array replicated on every device."""
        return jax.jit(lambda x: x, out_shardings=self.replicated)(tree)


@partial(jax.jit, static_argnums=1)
def _any(flags: jax.Array, replicated: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(jnp.any(flags), replicated)


def make_data_parallel(images: int, *, shard_parameters: bool = False) -> DataParallel:
    """All devices of all processes; in a single process, as many as divide the images.

    Args:
        images: images computed at a time: the batch, or a micro-batch of it.
        shard_parameters: as in ``DataParallel``.

    Raises:
        ConfigError: when the devices of several processes do not divide the images.
    """
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if images % n == 0)
    if count < len(devices):
        if jax.process_count() > 1:
            raise ConfigError(
                f"{images} images are computed at a time (batch_size / accumulation_steps), which "
                f"the {len(devices)} devices of the {jax.process_count()} processes do not divide; "
                "choose a batch_size that is a multiple of devices x accumulation_steps, and at "
                "most the number of training images"
            )
        _log.warning(
            "%d of %d devices are used, because more do not divide the %d images that are "
            "computed at a time",
            count,
            len(devices),
            images,
        )
    return DataParallel(Mesh(np.array(devices[:count]), (AXIS,)), shard_parameters)


def is_primary_process() -> bool:
    """Whether this is the primary process, which alone writes logs and artifacts."""
    return jax.process_index() == 0


def all_gather_text(text: str) -> list[str]:
    """The text of every process, by process index; all processes must call this together."""
    if jax.process_count() == 1:
        return [text]
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(encoded)))
    padded = np.zeros(max(lengths), np.uint8)
    padded[: len(encoded)] = encoded
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def broadcast_from_primary(number: int) -> int:
    """The primary process's number, in every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


@dataclass
class StopRequest:
    """A request to save the run and leave it, which all processes follow after the same step.

    Attributes:
        requested: set by a signal handler, or by a test.
    """

    requested: bool = False
    _posted: deque[Any] = field(default_factory=deque)

    def agreed_by_all_processes(self, devices: DataParallel) -> bool:
        """Whether to leave now; every process calls this once per step.

        Several processes read what they posted ``STEPS_IN_FLIGHT`` steps ago, since reading waits
        for all of them.
        """
        if devices.is_single_process:
            return self.requested
        self._posted.append(devices.any_process(self.requested))
        return len(self._posted) > STEPS_IN_FLIGHT and bool(self._posted.popleft())


def join_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Connect this process with the others of its run, before anything is computed.

    Without arguments, JAX finds out about the cluster by itself.

    Raises:
        ConfigError: when there is no cluster to find out about.
        TrainingError: when the other processes do not come.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=_JOIN_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ConfigError(
            f"--distributed found no SLURM, Open MPI, Kubernetes or TPU job around this process "
            f"({error}); name --coordinator, --num-processes and --process-id"
        ) from error
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")
        job = "by the same job" if coordinator is None else "with the same --coordinator"
        raise TrainingError(
            f"the processes did not find each other ({reason}); check that all were started {job}, "
            "and that the network lets them reach process 0"
        ) from error
    if _sees_only_its_own_devices(os.environ):
        for platform in ("cuda", "rocm"):
            jax.config.update(f"jax_{platform}_visible_devices", "all")


def _sees_only_its_own_devices(environment: Mapping[str, str]) -> bool:
    """Whether a process that SLURM or Open MPI has started shares none of the devices it sees.

    JAX assumes one process per GPU of the machine and shows each a single device, by its index on
    the machine, although it may be alone there or have been given one already (jax-ml/jax, issues
    16788 and 28194).
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return False
    one_visible = "," not in environment.get("CUDA_VISIBLE_DEVICES", ",")
    tasks, nodes = (environment.get(f"SLURM_STEP_NUM_{what}") for what in ("TASKS", "NODES"))
    one_per_node = tasks is not None and tasks == nodes
    return one_visible or one_per_node or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def build_alike(
    build: Callable[[], Built], describe: Callable[[Built], Mapping[str, Any]]
) -> Built:
    """What this process builds, once every process of the run has built the same.

    Args:
        build: builds it.
        describe: JSON values by name that must be the same in every process.

    Raises:
        BoTNetError, OSError: whatever ``build`` raises.
        TrainingError: when another process could not build its own.
        ConfigError: when another process has built something else.
    """
    if jax.process_count() == 1:
        return build()
    import orbax.checkpoint as ocp

    built: Built | None = None
    failure: BoTNetError | OSError | None = None
    try:
        built = build()
    except (BoTNetError, OSError) as error:
        failure = error
    # On CPU a collective gives up after half a minute; one process may list images for longer.
    ocp.multihost.get_barrier_sync_fn()(key="built", timeout_ms=1000 * _SETUP_SECONDS)
    description = None if built is None else describe(built)
    descriptions = [json.loads(text) for text in all_gather_text(json.dumps(description))]
    if problem := failure or _disagreement(descriptions):
        jax.distributed.shutdown()
        raise problem
    assert built is not None
    return built


def _disagreement(descriptions: list[dict[str, Any] | None]) -> BoTNetError | None:
    if None in descriptions:
        failed = descriptions.index(None)
        return TrainingError(f"process {failed} of the run cannot begin; see its own message")
    first, *others = [description or {} for description in descriptions]
    for process, other in enumerate(others, start=1):
        if changed := [f"{key} {other[key]}" for key in other if other[key] != first[key]]:
            return ConfigError(
                f"process {process} of the run differs from process 0: it has "
                f"{', '.join(changed)}; give all the same options and the same images"
            )
    return None
