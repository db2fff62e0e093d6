"""Processes of one run: how they find each other, and that they agree."""

import json
import os
import subprocess
import sys

import pytest

from bottleneck_transformer_flax import distributed
from bottleneck_transformer_flax.distributed import (
    DataParallel,
    StopRequest,
    build_alike,
    make_data_parallel,
)
from bottleneck_transformer_flax.errors import ConfigError, DataError, TrainingError

JOIN = """
import json
import jax
from bottleneck_transformer_flax.distributed import join_processes

join_processes(None, None, None)
devices = [jax.config.values[f"jax_{name}_visible_devices"] for name in ("cuda", "rocm")]
print(json.dumps([jax.process_index(), jax.process_count(), devices]))
"""


def joined(*environments):
    """What processes with these variables found out, joined for real."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    return [json.loads(out) for out, _ in said]


def slurm(process=0, processes=1, **more):
    """What SLURM tells a process that it starts on this machine."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    numbers = {"NTASKS": processes, "PROCID": process, "LOCALID": process}
    return job | {f"SLURM_{key}": str(value) for key, value in (numbers | more).items()}


def open_mpi(process, processes):
    """What Open MPI tells a process that it starts on this machine."""
    numbers = {"SIZE": processes, "RANK": process, "LOCAL_SIZE": processes, "LOCAL_RANK": process}
    job = {"OMPI_MCA_orte_hnp_uri": f"{os.getpid()}.0;tcp://127.0.0.1:40000"}
    return job | {f"OMPI_COMM_WORLD_{key}": str(value) for key, value in numbers.items()}


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [slurm, open_mpi])
def test_two_processes_of_a_cluster_find_each_other(cluster):
    expected = [[process, 2, [str(process)] * 2] for process in range(2)]
    assert joined(cluster(0, 2), cluster(1, 2)) == expected


def test_a_process_that_is_alone_on_its_machine_gets_all_devices():
    assert joined(slurm(STEP_NUM_TASKS=4, STEP_NUM_NODES=4)) == [[0, 1, ["all"] * 2]]


@pytest.mark.parametrize(
    ("coordinator", "told"),
    [("node0:1", "started with the same --coordinator,"), (None, "started by the same job,")],
)
def test_processes_that_do_not_find_each_other_are_told_what_to_check(
    monkeypatch, coordinator, told
):
    def fail(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: timed out\nMore.")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", fail)
    with pytest.raises(TrainingError, match=told):
        distributed.join_processes(coordinator, None, None)


ALONE = slurm(STEP_NUM_TASKS=4, STEP_NUM_NODES=4)
EIGHT = slurm(STEP_NUM_TASKS=8, STEP_NUM_NODES=1, LOCALID=3)


@pytest.mark.parametrize(
    ("environment", "its_own"),
    [
        (ALONE, True),
        (EIGHT, False),
        (EIGHT | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, False),
        (EIGHT | {"CUDA_VISIBLE_DEVICES": "3"}, True),
        (ALONE | {"JAX_LOCAL_DEVICE_IDS": "4,5"}, False),
        (open_mpi(0, 1), True),
        (open_mpi(0, 2), False),
    ],
)
def test_whether_the_devices_a_process_sees_are_its_own(environment, its_own):
    assert distributed._sees_only_its_own_devices(environment) == its_own


@pytest.fixture
def two_processes(monkeypatch):
    """This process as number 0 of two; the other one's description is set by the test."""
    other = {}
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.jax.distributed, "shutdown", lambda: None)
    monkeypatch.setattr(
        "orbax.checkpoint.multihost.get_barrier_sync_fn", lambda: lambda **options: None
    )
    monkeypatch.setattr(
        distributed, "all_gather_text", lambda text: [text, json.dumps(other["description"])]
    )
    return other


def build():
    return build_alike(
        lambda: ("abc", 0.1), lambda built: dict(zip(("images", "rate"), built, strict=True))
    )


def test_processes_that_built_the_same_go_on_and_others_are_told(two_processes):
    two_processes["description"] = {"images": "abc", "rate": 0.1}
    assert build() == ("abc", 0.1)
    two_processes["description"] = {"images": "def", "rate": 0.2}
    with pytest.raises(ConfigError, match=r"process 1 .* it has images def, rate 0\.2; give all"):
        build()


def test_when_one_process_fails_it_raises_its_own_error_and_the_others_name_it(two_processes):
    two_processes["description"] = None
    with pytest.raises(TrainingError, match="process 1 of the run cannot begin"):
        build()
    two_processes["description"] = {"images": "abc"}

    def fail():
        raise DataError("no such folder")

    with pytest.raises(DataError, match="no such folder"):
        build_alike(fail, dict)


class OneOfTwo(DataParallel):
    """The devices of a process whose flag the other one has too."""

    is_single_process = False

    def any_process(self, flag):
        return flag


def test_several_processes_stop_after_the_same_step_two_steps_after_the_request():
    stop, devices = StopRequest(), OneOfTwo(make_data_parallel(2).mesh)
    agreed = []
    for step in range(6):
        stop.requested = step >= 2
        agreed.append(stop.agreed_by_all_processes(devices))
    assert agreed == [False, False, False, False, True, True]


def test_a_single_process_stops_at_once():
    stop, devices = StopRequest(), make_data_parallel(2)
    assert not stop.agreed_by_all_processes(devices)
    stop.requested = True
    assert stop.agreed_by_all_processes(devices)
