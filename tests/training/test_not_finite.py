"""A loss, a gradient or a model that is not finite stops the run, and none of it is saved."""

import jax
import numpy as np
import pytest

from bottleneck_transformer_flax.errors import TrainingError
from bottleneck_transformer_flax.training import artifacts
from bottleneck_transformer_flax.training.config import OptimizerOptions
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from training.linear_runs import CONFIG, after_epoch, go, numbered, saved


@pytest.fixture(autouse=True)
def no_best_model(monkeypatch):
    monkeypatch.setattr(artifacts, "save_pretrained", lambda *_, **__: None)


def without_average(**changes):
    options = OptimizerOptions(
        optimizer="sgd", momentum=0.0, warmup_epochs=0.0, ema_decay=None, **changes
    )
    return CONFIG.replace(optimization=options)


def test_the_message_names_the_last_good_checkpoint(tmp_path):
    # A first epoch that is fine, then a rate that no parameter survives.
    good, _ = go(tmp_path, without_average(learning_rate=1e-3), at=after_epoch(1))
    assert good.step == 3
    config = without_average(learning_rate=1e30)
    with pytest.raises(TrainingError) as caught:
        go(tmp_path, config)
    message = str(caught.value)
    assert message.startswith("the loss is not finite at step 5 (epoch 2, loss nan); ")
    assert message.endswith(f"--like {tmp_path} and a lower --learning-rate, or --clip-norm 1")
    assert "\n" not in message
    state, _, steps = saved(tmp_path, config)
    assert str(RunDirectory(tmp_path).checkpoints / str(steps[-1])) in message
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.variables))


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_model_that_an_epochs_last_update_breaks_is_neither_logged_nor_saved(tmp_path, epochs):
    # The loss of that step was still fine.
    config = without_average(learning_rate=1e38).replace(epochs=epochs, batch_size=7)
    with pytest.raises(TrainingError, match=r"at step 1 .*no checkpoint had been written yet"):
        go(tmp_path, config)
    assert numbered(tmp_path) == []
    assert not RunDirectory(tmp_path).metrics.exists()


def test_no_checkpoint_holds_what_is_not_finite(tmp_path):
    # Nothing is validated before the first checkpoint, and decay overflows where no gradient does.
    config = without_average(learning_rate=1e30, weight_decay=1e20, clip_norm=1.0)
    # Clipping is on already.
    with pytest.raises(TrainingError, match=r"not finite .* a lower --learning-rate$"):
        go(tmp_path, config.replace(epochs=2, evaluate_every_epochs=2, batch_size=7))
    assert numbered(tmp_path) == []
