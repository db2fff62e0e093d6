"""Implementations give the same for the same weights, in processes that work only when asked."""

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cases import Case
from benchmarks.implementations import NETWORKS, READERS
from benchmarks.photographs import write_photographs
from benchmarks.readers import ReaderCase
from benchmarks.timing import relative_difference
from benchmarks.workers import Worker, WorkerError
from bottleneck_transformer_flax.models.variants import get_config

SMALL = get_config("botnet_t3", stage_sizes=(1, 1, 1, 1), initial_filters=8, head_dim=16)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("peer", "workload"),
    [
        ("reference", "inference"),
        ("reference", "attention-training"),
        *(
            pytest.param("timm", workload, marks=pytest.mark.slow)
            for workload in ("inference", "training", "attention", "attention-training")
        ),
    ],
)
def test_implementations_give_the_same(tmp_path, peer, workload):
    size = (3, 4) if workload.startswith("attention") else (48, 64)
    case = Case(workload=workload, variant="small", config=SMALL, size=size, batch_size=2)
    case.write(tmp_path)
    ours, theirs = (NETWORKS[name].build(case, tmp_path) for name in ("ours", peer))
    assert relative_difference(theirs.outputs, ours.outputs) <= 1e-5
    for built in (ours, theirs):
        assert min(np.abs(output).max() for output in built.outputs) > 0.01
        built.run(2)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_a_worker_stands_still_with_all_its_processes_until_it_is_asked(tmp_path, wait_for_states):
    write_photographs(tmp_path, 2, (12, 16))
    case = ReaderCase(
        root=tmp_path,
        names=("0000.jpg", "0001.jpg"),
        size=(8, 8),
        batch_size=1,
        num_workers=1,
        policy="none",
    )
    case.write(tmp_path)
    worker = Worker("plain-loop", READERS["plain-loop"], keep_memory=False)
    with contextlib.closing(worker):
        report = worker.build(case, tmp_path)
        assert report.outputs[0].shape == (8, 8, 8, 3)
        assert worker.time(2) > 0
        group = worker._process.pid
        assert wait_for_states(group, {"T"}) >= 2
        os.kill(group, signal.SIGKILL)
        with pytest.raises(WorkerError, match="plain-loop: its process ended with exit code -9"):
            worker.time(1)
    wait_for_states(group, set())
