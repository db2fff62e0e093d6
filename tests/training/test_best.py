"""The best model is written beside the training, which waits for nothing but its copy."""

import errno
import os
import threading

import numpy as np
import pytest

from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.training import best
from bottleneck_transformer_flax.training.best import BestModel
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from training.linear_runs import plan_of

ROW = {"epoch": 1, "step": 3, "test_accuracy": 0.5, "test_top5": 1.0, "test_loss": 0.7}


@pytest.fixture
def disk(monkeypatch):
    """What is written, each model by its one number, once the event is set; 13 cannot be."""
    written, ready, begun = [], threading.Event(), threading.Event()

    def save(path, model, variables, preprocessing, classes, *, card):
        begun.set()
        assert ready.wait(60)
        if variables["number"] == 13:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(int(variables["number"]))

    monkeypatch.setattr(best, "save_pretrained", save)
    yield written, ready, begun
    ready.set()


def keep(model, number):
    model.keep({"number": np.int64(number)}, ROW, count=9)


def test_of_those_that_wait_for_a_slow_disk_the_newest_is_written(tmp_path, disk):
    written, ready, begun = disk
    model = BestModel(plan_of(), RunDirectory(tmp_path))
    keep(model, 1)
    assert begun.wait(60)
    for number in (2, 3, 4):
        keep(model, number)
    assert written == []
    ready.set()
    model.close()
    assert written == [1, 4]


def test_a_full_disk_is_told_at_the_latest_at_the_end(tmp_path, disk):
    written, ready, _ = disk
    ready.set()
    model = BestModel(plan_of(), RunDirectory(tmp_path))
    keep(model, 13)
    with pytest.raises(CheckpointError, match=r"best: No space left on device; .*--resume"):
        model.close()
    assert written == []


def test_what_failed_is_told_when_the_next_is_kept(tmp_path, disk):
    _, ready, _ = disk
    ready.set()
    model = BestModel(plan_of(), RunDirectory(tmp_path))
    keep(model, 13)
    while not model._writing[0].done():
        pass
    with pytest.raises(CheckpointError, match="No space left"):
        keep(model, 1)
