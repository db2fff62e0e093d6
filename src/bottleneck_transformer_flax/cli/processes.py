"""Many processes as one run: joining them, and ending when one of them has gone."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from bottleneck_transformer_flax.cli.record_paths import differences, flattened
from bottleneck_transformer_flax.errors import BoTNetError, ConfigError, TrainingError

if TYPE_CHECKING:
    from bottleneck_transformer_flax.training.setup import Plan

_HEARTBEAT_SECONDS = 30
_START_SECONDS = 300
_PLANNING_SECONDS = 3600
# Where a process has its images, and how many others decode them for it.
_MAY_DIFFER = ("data", "input.num_workers")
# What has no short value of its own.
_IN_WORDS = {"images": "other images", "network": "another network"}


@dataclass(frozen=True)
class ProcessOptions:
    """Training in several processes, one or more a machine; each runs the same command."""

    distributed: bool = False
    """Join the processes that SLURM, Open MPI, Kubernetes or a TPU pod has started; JAX finds out
    which. Elsewhere say it with the next three."""
    coordinator: str | None = None
    """HOST:PORT on which the process with number 0 listens, the same for all."""
    num_processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """The number of this one, from 0."""

    @property
    def given(self) -> bool:
        """Whether this process is one of several."""
        return self.distributed or self._by_hand != (None, None, None)

    @property
    def _by_hand(self) -> tuple[str | None, int | None, int | None]:
        return self.coordinator, self.num_processes, self.process_id

    def __post_init__(self) -> None:
        """See that all is said or nothing."""
        given = [value is not None for value in self._by_hand]
        if any(given) and not all(given):
            raise ConfigError(
                f"coordinator is {self.coordinator}, num_processes {self.num_processes} and "
                f"process_id {self.process_id}; expected all three of them, or none"
            )
        if not all(given):
            return
        host, _, port = str(self.coordinator).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ConfigError(
                f"coordinator is {self.coordinator!r}; expected HOST:PORT, such as node0:1234"
            )
        if int(self.num_processes or 0) < 1:
            raise ConfigError(f"num_processes is {self.num_processes}; expected at least 1")
        if not 0 <= int(self.process_id or 0) < int(self.num_processes or 0):
            raise ConfigError(
                f"process_id is {self.process_id}; expected 0 to num_processes - 1 = "
                f"{int(self.num_processes or 0) - 1}"
            )


def join(options: ProcessOptions) -> None:
    """Connect this process with the others; before anything is computed.

    Raises:
        ConfigError: when there is nothing to be found out of a cluster.
        TrainingError: when the others do not come.
    """
    import jax

    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ConfigError(
            f"--distributed found no SLURM, Open MPI, Kubernetes or TPU job around this process "
            f"({error}); name --coordinator, --num-processes and --process-id"
        ) from error
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise TrainingError(
            f"the {options.num_processes or ''} processes did not find each other ({reason}); see "
            "that all were started with the same --coordinator, which all can reach"
        ) from error
    if _sees_only_its_own_devices(os.environ):
        for platform in ("cuda", "rocm"):
            jax.config.update(f"jax_{platform}_visible_devices", "all")


def _sees_only_its_own_devices(environment: Mapping[str, str]) -> bool:
    """Whether a process that SLURM or Open MPI has started shares no device that it sees.

    JAX takes it for one of as many as the machine has GPUs and shows it a single one, the one with
    its number on the machine, though it may be alone there or have been given one already
    (jax-ml/jax, issues 16788 and 28194).
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return False
    one_visible = "," not in environment.get("CUDA_VISIBLE_DEVICES", ",")
    tasks, nodes = (environment.get(f"SLURM_STEP_NUM_{what}") for what in ("TASKS", "NODES"))
    one_a_node = tasks is not None and tasks == nodes
    return one_visible or one_a_node or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def planned_by_all(make_plan: "Callable[[], Plan]") -> "Plan":
    """What this process has planned, once every process of the run has planned the same.

    Raises:
        BoTNetError, OSError: what ``make_plan`` raises.
        TrainingError: when another process could not plan.
        ConfigError: when another has other options, images or pretrained weights.
    """
    import orbax.checkpoint as ocp

    from bottleneck_transformer_flax.distributed import all_gather_text

    planned: Plan | BoTNetError | OSError
    try:
        planned = make_plan()
    except (BoTNetError, OSError) as error:
        planned = error
    # Over CPUs a collective waits for half a minute, and one process may list images for longer.
    ocp.multihost.get_barrier_sync_fn()(key="planned", timeout_ms=1000 * _PLANNING_SECONDS)
    texts = all_gather_text(
        json.dumps(None if isinstance(planned, Exception) else _identity(planned))
    )
    if isinstance(planned, Exception):
        _leave_together(planned)
    if problem := _disagreement([json.loads(text) for text in texts]):
        _leave_together(problem)
    return planned


def _leave_together(error: Exception) -> NoReturn:
    """Raise what every process knows of, so that none has to be torn away from the others."""
    import jax

    jax.distributed.shutdown()
    raise error


def _identity(plan: "Plan") -> dict[str, Any]:
    """All that must be the same in every process."""
    from bottleneck_transformer_flax.data.datasets import fingerprint

    options = {
        path: value for path, value in flattened(plan.config.to_json()) if path not in _MAY_DIFFER
    }
    return options | {"images": fingerprint(plan.splits), "network": plan.start}


def _disagreement(plans: list[dict[str, Any] | None]) -> BoTNetError | None:
    """What keeps processes from being one run, if anything does."""
    first, *_ = plans
    for number, plan in enumerate(plans):
        if first is None or plan is None:
            failed = plans.index(None)
            return TrainingError(f"process {failed} of the run cannot begin; see what it said")
        changed = [
            _IN_WORDS.get(path, f"{path} {value}") for path, value in differences(first, plan)
        ]
        if changed:
            return ConfigError(
                f"process {number} of the run differs from process 0: it has {', '.join(changed)}; "
                "give all the same options and the same images"
            )
    return None


def leave_others(message: str, code: int = 1) -> NoReturn:
    """End this process at once with an exit code, which ends the others within a minute.

    An ordinary exit would wait for them, as they would for this one.
    """
    sys.stdout.flush()
    print(f"botnet: error: {message}", file=sys.stderr, flush=True)
    os._exit(code)
