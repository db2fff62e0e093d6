"""What TensorBoard is told: read back from the files, byte by byte, as it would read them."""

import sys

import pytest

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.training.callbacks import Reporter, Reporters, RunProgress
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.tensorboard import TensorBoardReporter
from reference.tensorboard_events import shown
from training.linear_runs import Recorder, plan_of


def progress_at(step, scale=1.0):
    # Numbers that float32, in which they are stored, holds exactly.
    return RunProgress(
        epoch=1,
        step=step,
        loss=scale * step / 8,
        accuracy=0.5,
        images=4,
        learning_rate=step / 64,
        gradient_norm=scale * step,
        update_norm=step / 4,
        seconds=0.5,
        input_seconds=0.125,
    )


def row_at(step, **more):
    return {"epoch": step // 3, "step": step, "train_loss": 1.5, "seconds": 2.0} | more


def plan(steps_per_epoch=3):
    return plan_of()._replace(steps_per_epoch=steps_per_epoch)


def test_what_was_reported_comes_back(tmp_path):
    run = RunDirectory(tmp_path)
    with TensorBoardReporter() as reporter:
        assert isinstance(reporter, Reporter)
        reporter.planned(plan(), run, 0)
        for step in (1, 2):
            reporter.stepped(progress_at(step))
        reporter.stepped(progress_at(3)._replace(fraction_of_peak=0.25))
        reporter.evaluating(1, 2)
        row = row_at(3, test_accuracy=0.75, best=True, fraction_of_peak=None, image_size=[2, 2])
        reporter.finished_epoch(row)
    steps = (1, 2, 3)
    assert shown(tmp_path / "tensorboard") == {
        "step/mean_loss": [(step, step / 8) for step in steps],
        "step/mean_accuracy": [(step, 0.5) for step in steps],
        "step/learning_rate": [(step, step / 64) for step in steps],
        "step/gradient_norm": [(step, float(step)) for step in steps],
        "step/update_norm": [(step, step / 4) for step in steps],
        "step/seconds": [(step, 0.5) for step in steps],
        "step/input_seconds": [(step, 0.125) for step in steps],
        "step/images_per_second": [(step, 8.0) for step in steps],
        "step/fraction_of_peak": [(3, 0.25)],
        "epoch/train_loss": [(3, 1.5)],
        "epoch/seconds": [(3, 2.0)],
        "epoch/test_accuracy": [(3, 0.75)],
    }


@pytest.mark.parametrize("start", [0, 3, 4])
def test_no_step_of_a_resumed_run_is_there_twice(tmp_path, start):
    run = RunDirectory(tmp_path)
    with TensorBoardReporter() as reporter:
        reporter.planned(plan(), run, 0)
        for step in range(1, 6):
            reporter.stepped(progress_at(step))
            if step == 3:
                reporter.finished_epoch(row_at(step))
    with TensorBoardReporter() as reporter:
        reporter.planned(plan(), run, start)
        for step in range(start + 1, 7):
            reporter.stepped(progress_at(step, scale=2.0))
            if step % 3 == 0:
                reporter.finished_epoch(row_at(step))
    curves = shown(tmp_path / "tensorboard")
    assert curves["step/gradient_norm"] == [
        (step, step * (1.0 if step <= start else 2.0)) for step in range(1, 7)
    ]
    assert curves["epoch/train_loss"] == [(3, 1.5), (6, 1.5)]


@pytest.mark.parametrize(
    ("steps_per_epoch", "between"), [(1, 1), (100, 1), (101, 2), (200, 2), (1001, 11)]
)
def test_at_most_a_hundred_steps_an_epoch(tmp_path, steps_per_epoch, between):
    run = RunDirectory(tmp_path)
    with TensorBoardReporter() as reporter:
        reporter.planned(plan(steps_per_epoch), run, 0)
        for step in range(1, steps_per_epoch + 1):
            reporter.stepped(progress_at(step))
    points = shown(tmp_path / "tensorboard")["step/seconds"]
    assert [step for step, _ in points] == list(range(between, steps_per_epoch + 1, between))
    assert 1 <= len(points) <= 100


def test_an_epoch_is_on_disk_when_it_is_over(tmp_path):
    run = RunDirectory(tmp_path)
    with TensorBoardReporter() as reporter:
        reporter.planned(plan(), run, 0)
        reporter.stepped(progress_at(1))
        reporter.finished_epoch(row_at(3))
        curves = shown(tmp_path / "tensorboard")
        assert curves["step/seconds"] == [(1, 0.5)]
        assert curves["epoch/train_loss"] == [(3, 1.5)]


def test_without_a_plan_nothing_is_written(tmp_path):
    with TensorBoardReporter():
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_tensorboardx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"bottleneck-transformer-flax\[log\]"):
        TensorBoardReporter()


def test_several_reporters_are_told_the_same_in_order(tmp_path):
    first, second = Recorder(), Recorder()
    both = Reporters(first, second)
    assert isinstance(both, Reporter)
    both.planned(plan(), RunDirectory(tmp_path), 2)
    both.stepped(progress_at(3))
    both.evaluating(1, 2)
    both.finished_epoch(row_at(3))
    expected = [
        ("planned", 2),
        ("stepped", progress_at(3)),
        ("evaluating", (1, 2)),
        ("finished", row_at(3)),
    ]
    assert first.events == second.events == expected
