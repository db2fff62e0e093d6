"""Many devices as one: where the state and each batch lie, in one process or several."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bottleneck_transformer_flax.errors import ConfigError

AXIS = "images"
"""The one axis of the mesh, which the images of a batch are spread over."""
Tree = TypeVar("Tree")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataParallel:
    """The devices of a run, in one mesh.

    Attributes:
        mesh: of one axis.
        shard_parameters: whether each device keeps a part of the state, or all of it.
    """

    mesh: Mesh
    shard_parameters: bool = False

    @property
    def is_single_process(self) -> bool:
        """Whether no other process takes part."""
        return jax.process_count() == 1

    @property
    def num_devices(self) -> int:
        """DataParallel of all processes."""
        return self.mesh.size

    @property
    def process_shard(self) -> tuple[int, int]:
        """This process's number among those of the run, and how many there are."""
        return jax.process_index(), jax.process_count()

    @property
    def is_primary(self) -> bool:
        """Whether this is the process that writes logs and results."""
        return is_primary_process()

    @property
    def replicated(self) -> NamedSharding:
        """All of an array on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_sharding(self) -> NamedSharding:
        """The first axis of an array spread over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def state_shardings(self, state: Any) -> Any:
        """Where each array of a state lies; by its longest axis that the devices divide."""
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
        """Within a jitted function: the same state, laid out as ``place_state`` does."""
        laid_out: Tree = _constrain(state, self.state_shardings(state))
        return laid_out

    def constrain_replicated(self, tree: Tree) -> Tree:
        """Within a jitted function: the same arrays, all of each on every device."""
        laid_out: Tree = _constrain(tree, self.replicated)
        return laid_out

    def place_state(self, state: Tree) -> Tree:
        """A state that every process has alike, laid out on the devices."""

        def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
            value = np.asarray(leaf)
            return jax.make_array_from_callback(value.shape, sharding, lambda part: value[part])

        placed: Tree = jax.tree.map(place, state, self.state_shardings(state))
        return placed

    def place_batch(self, batch: Tree) -> Tree:
        """This process's rows of a batch as part of the global one, spread over the devices."""
        sharding = self.batch_sharding
        placed: Tree = jax.tree.map(
            lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch
        )
        return placed

    def any_process(self, flag: bool) -> bool | jax.Array:
        """Whether any process has the flag set, known once all have asked."""
        if self.is_single_process:
            return flag
        flags = np.full(jax.local_device_count(), flag)
        return _any(self.place_batch(flags), self.replicated)

    def replicate(self, tree: Tree) -> Tree:
        """A sharded tree with all of each array on every device."""
        everywhere = jax.tree.map(lambda _: self.replicated, tree)
        gathered: Tree = jax.jit(lambda x: x, out_shardings=everywhere)(tree)
        return gathered


def _constrain(tree: Any, shardings: Any) -> Any:
    return jax.lax.with_sharding_constraint(tree, shardings)


@partial(jax.jit, static_argnums=1)
def _any(flags: jax.Array, everywhere: NamedSharding) -> jax.Array:
    reached: jax.Array = _constrain(jnp.any(flags), everywhere)
    return reached


def make_data_parallel(images: int, *, shard_parameters: bool = False) -> DataParallel:
    """All devices of all processes; of one process, as many as divide the images.

    Args:
        images: that are computed at a time: the batch, or a part of it where it is in parts.
        shard_parameters: of ``DataParallel``.

    Raises:
        ConfigError: when several processes have devices that do not divide the images.
    """
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if images % n == 0)
    if count < len(devices):
        if jax.process_count() > 1:
            raise ConfigError(
                f"{images} images are computed at a time (batch_size / accumulation_steps), which "
                f"the {len(devices)} devices of the {jax.process_count()} processes do not divide; "
                "choose a batch_size that is a multiple of the devices x accumulation_steps"
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
    """Whether this is the process that writes for all."""
    return jax.process_index() == 0


def all_gather_text(text: str) -> list[str]:
    """The texts that the processes have, in their order; every process asks at the same time."""
    if jax.process_count() == 1:
        return [text]
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(encoded)))
    room = np.zeros(max(lengths), np.uint8)
    room[: len(encoded)] = encoded
    rows = multihost_utils.process_allgather(room)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def broadcast_from_primary(number: int) -> int:
    """The number that the first process has, in all of them."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
