"""How a process of several is told which it is; what cannot be is told before anything starts."""

import json
import os
import subprocess
import sys

import pytest
from bottleneck_transformer_flax.cli.processes import ProcessOptions

from bottleneck_transformer_flax.errors import ConfigError

GOOD = {"coordinator": "node0:1234", "num_processes": 2, "process_id": 1}


@pytest.mark.parametrize("coordinator", ["node0:1234", "10.0.0.1:1", "[::1]:65535"])
def test_a_process_of_several(coordinator):
    assert ProcessOptions(**GOOD | {"coordinator": coordinator}).given
    assert not ProcessOptions().given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coordinator": None}, "expected all three of them, or none"),
        ({"process_id": None}, "expected all three of them, or none"),
        *[
            ({"coordinator": value}, f"coordinator is '{value}'; expected HOST:PORT")
            for value in ("localhost", "localhost:", ":1234", "localhost:abc", "a:0", "a:65536")
        ],
        ({"num_processes": 0}, "num_processes is 0; expected at least 1"),
        ({"process_id": 2}, "process_id is 2; expected 0 to num_processes - 1 = 1"),
        ({"process_id": -1}, "process_id is -1"),
    ],
)
def test_what_no_process_can_be(changes, message):
    with pytest.raises(ConfigError) as caught:
        ProcessOptions(**GOOD | changes)
    assert message in str(caught.value)


def test_the_command_says_so_in_one_line(fails):
    options = ("--coordinator", "localhost", "--num-processes", "2", "--process-id", "0")
    assert "expected HOST:PORT" in fails(2, "train", *options)


JOIN = """
import json
import jax
from bottleneck_transformer_flax.cli.processes import ProcessOptions, join

join(ProcessOptions(distributed=True))
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


@pytest.mark.parametrize("cluster", [slurm, open_mpi])
def test_two_processes_find_each_other(cluster):
    expected = [[process, 2, [str(process)] * 2] for process in range(2)]
    assert joined(cluster(0, 2), cluster(1, 2)) == expected


ALONE = slurm(STEP_NUM_TASKS=4, STEP_NUM_NODES=4)
EIGHT = slurm(STEP_NUM_TASKS=8, STEP_NUM_NODES=1, LOCALID=3)


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        (ALONE, "all"),
        (EIGHT, "3"),
        (EIGHT | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, "3"),
        (EIGHT | {"CUDA_VISIBLE_DEVICES": "3"}, "all"),
        (ALONE | {"JAX_LOCAL_DEVICE_IDS": "4,5"}, "4,5"),
        (open_mpi(0, 1), "all"),
    ],
)
def test_a_process_has_all_devices_that_are_its_own(environment, devices):
    assert joined(environment) == [[0, 1, [devices] * 2]]
