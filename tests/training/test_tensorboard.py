"""The event files for TensorBoard: read back byte by byte, as it would read them."""

import dataclasses
import sys

import pytest

from bottleneck_transformer_flax.errors import TrainingError
from bottleneck_transformer_flax.training.metrics import EpochMetrics, Progress, StepInfo
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.tensorboard import TensorBoard
from reference.tensorboard_events import shown
from training.linear_runs import setup_of


class Log:
    """An event log of a run, told of steps whose numbers float32 holds exactly."""

    def __init__(self, path, start=0, steps_per_epoch=3):
        setup = dataclasses.replace(setup_of(), steps_per_epoch=steps_per_epoch)
        self.callback, self.epoch = TensorBoard(), EpochMetrics()
        self.callback.on_start(setup, RunDirectory(path), Progress(step=start))

    def step(self, number, norm=1.0):
        step = StepInfo(
            step=number,
            loss_sum=2.0,
            correct=2,
            images=4,
            gradient_norm=norm,
            update_norm=number / 4,
            learning_rate=number / 64,
            seconds=0.5,
            input_seconds=0.125,
        )
        self.epoch.add(step)
        self.callback.on_step(step, self.epoch)

    def end_epoch(self, step, **more):
        row = {"epoch": step // 3, "step": step, "train_loss": 1.5, "seconds": 2.0}
        self.callback.on_epoch(row | more)


def test_what_was_measured_is_shown_at_its_step_as_soon_as_the_epoch_is_over(tmp_path):
    log = Log(tmp_path)
    for number in (1, 2, 3):
        if number == 3:
            log.epoch.ideal_step_seconds = 0.125
        log.step(number)
    log.end_epoch(3, validation_accuracy=0.75, best=True, image_size=[2, 2])
    per_step = {
        "mean_loss": 0.5,
        "mean_accuracy": 0.5,
        "gradient_norm": 1.0,
        "seconds": 0.5,
        "input_seconds": 0.125,
        "images_per_second": 8.0,
    }
    per_epoch = {"train_loss": 1.5, "seconds": 2.0, "validation_accuracy": 0.75}
    assert shown(tmp_path / "tensorboard") == {
        **{
            f"step/{name}": [(1, value), (2, value), (3, value)] for name, value in per_step.items()
        },
        "step/learning_rate": [(step, step / 64) for step in (1, 2, 3)],
        "step/update_norm": [(step, step / 4) for step in (1, 2, 3)],
        "step/mfu": [(3, 0.25)],
        **{f"epoch/{name}": [(3, value)] for name, value in per_epoch.items()},
    }
    log.callback.on_end()


@pytest.mark.parametrize("start", [0, 3, 4])
def test_a_step_that_is_taken_again_is_shown_once(tmp_path, start):
    first = Log(tmp_path)
    for number in range(1, 6):
        first.step(number, norm=1.0)
        if number == 3:
            first.end_epoch(3)
    first.callback.on_end()
    again = Log(tmp_path, start)
    for number in range(start + 1, 7):
        again.step(number, norm=2.0)
        if number in (3, 6):
            again.end_epoch(number)
    again.callback.on_end()
    curves = shown(tmp_path / "tensorboard")
    expected = [(step, 1.0 if step <= start else 2.0) for step in range(1, 7)]
    assert curves["step/gradient_norm"] == expected
    assert curves["epoch/train_loss"] == [(3, 1.5), (6, 1.5)]


@pytest.mark.parametrize(("steps_per_epoch", "between"), [(100, 1), (101, 2), (1001, 11)])
def test_at_most_a_hundred_steps_of_an_epoch_are_written(tmp_path, steps_per_epoch, between):
    log = Log(tmp_path, steps_per_epoch=steps_per_epoch)
    for number in range(1, steps_per_epoch + 1):
        log.step(number)
    log.callback.on_end()
    points = [step for step, _ in shown(tmp_path / "tensorboard")["step/seconds"]]
    assert points == list(range(between, steps_per_epoch + 1, between))
    assert len(points) <= 100


def test_without_tensorboardx_the_extra_is_named(monkeypatch):
    # A run that does not start has nothing to close.
    TensorBoard().on_end()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(TrainingError, match=r"bottleneck-transformer-flax\[log\]"):
        TensorBoard()
