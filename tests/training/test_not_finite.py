"""A loss that is not finite stops the run, and nothing of it reaches the disk."""

import jax
import numpy as np
import pytest

from bottleneck_transformer_flax.errors import TrainingError
from bottleneck_transformer_flax.training import trainer as loop
from bottleneck_transformer_flax.training.config import (
    OptimizerOptions,
)
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.trainer import train
from training.linear_runs import CONFIG, Recorder, go, plan_of, saved
from training.tiny import (
    entries,
)


@pytest.fixture(autouse=True)
def no_results(monkeypatch):
    monkeypatch.setattr(
        loop, "write_results", lambda run, **parts: {"top1": parts["predictions"].top1}
    )


def without_average(**changes):
    options = OptimizerOptions(
        optimizer="sgd", momentum=0.0, warmup_epochs=0.0, ema_decay=None, **changes
    )
    return CONFIG.replace(optimization=options)


@pytest.mark.parametrize("rate", [1e30, 1e38])
@pytest.mark.parametrize("evaluate_every", [1, 4])
def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(
    tmp_path, rate, evaluate_every
):
    # A first epoch that is fine, then a rate that no parameter survives.
    good, _ = go(
        tmp_path,
        without_average(learning_rate=1e-3),
        at=lambda event, value: event == "finished",
    )
    assert good.step == 3
    config = without_average(learning_rate=rate).replace(evaluate_every_epochs=evaluate_every)
    with pytest.raises(TrainingError) as caught:
        go(tmp_path, config)
    message = str(caught.value)
    assert "not finite at step" in message
    assert "\n" not in message
    steps = saved(tmp_path, config)[2]
    assert str(RunDirectory(tmp_path).checkpoints / str(steps[-1])) in message
    for leaf in jax.tree.leaves(saved(tmp_path, config)[0].variables):
        assert np.isfinite(leaf).all()


def numbered(path):
    return [name for name in entries(RunDirectory(path).checkpoints) if name.isdigit()]


def test_nothing_is_saved_when_the_first_epoch_is_not_finite(tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint had been written yet"):
        go(tmp_path, without_average(learning_rate=1e38))
    assert numbered(tmp_path) == []


def one_step(path, config):
    return train(plan_of(config)._replace(steps_per_epoch=1), RunDirectory(path), Recorder())


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_test_loss_that_is_not_finite_stops_too(tmp_path, epochs):
    # The update of an epoch's last step breaks the model: its own loss was still fine.
    config = without_average(learning_rate=1e38).replace(epochs=epochs)
    with pytest.raises(TrainingError, match="not finite"):
        one_step(tmp_path, config)
    assert numbered(tmp_path) == []
    metrics = RunDirectory(tmp_path).metrics
    assert not metrics.exists() or not {"NaN", "Infinity"} & set(metrics.read_text().split())


def test_no_checkpoint_holds_what_is_not_finite(tmp_path):
    # Nothing is evaluated before the first checkpoint, and decay overflows where no gradient does.
    config = without_average(learning_rate=1e30, weight_decay=1e20)
    config = config.replace(epochs=2, evaluate_every_epochs=2)
    with pytest.raises(TrainingError, match="not finite"):
        one_step(tmp_path, config)
    for _ in numbered(tmp_path):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved(tmp_path, config)[0]))
