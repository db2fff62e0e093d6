"""The loop on a model that compiles at once: stopped anywhere and resumed, it is the same run."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottleneck_transformer_flax.checkpoints.training_state import TrainingCheckpoints
from bottleneck_transformer_flax.data.transforms import Augmentation
from bottleneck_transformer_flax.errors import TrainingError
from bottleneck_transformer_flax.training import loop
from bottleneck_transformer_flax.training.config import (
    InputOptions,
    ModelOptions,
    OptimizerOptions,
    RunConfig,
)
from bottleneck_transformer_flax.training.loop import Plan, StopRequest, train
from bottleneck_transformer_flax.training.optimizer import learning_rate_schedule, make_optimizer
from bottleneck_transformer_flax.training.run import RunDirectory
from bottleneck_transformer_flax.training.state import create_state
from training.tiny import (
    CROPPED,
    SMALL,
    LinearModel,
    array_splits,
    assert_same_bits,
    entries,
    tree_differs,
)

STEPS_PER_EPOCH = 3
TIMINGS = ("seconds", "images_per_second")
OPTIMIZATION = OptimizerOptions(
    optimizer="adamw", learning_rate=0.05, warmup_epochs=1.0, label_smoothing=0.1, ema_decay=0.9
)
CONFIG = RunConfig(
    variant="botnet_tiny",
    epochs=4,
    batch_size=2,
    seed=3,
    model=ModelOptions(dropout_rate=0.3),
    optimization=OPTIMIZATION,
    input=InputOptions(num_workers=0),
    augmentation=Augmentation(crop="shift", shift_pixels=2),
)


class Recorder:
    """Writes down all it is told; asks to stop when ``at(event, value)`` is true."""

    def __init__(self, at=None):
        self.events, self.stop, self.at = [], StopRequest(), at

    def _tell(self, event, value):
        self.events.append((event, value))
        if self.at is not None and self.at(event, value):
            self.stop.requested = True

    def planned(self, plan, run, start_step):
        self._tell("planned", start_step)

    def stepped(self, progress):
        self._tell("stepped", progress)

    def evaluating(self, done, total):
        self._tell("evaluating", (done, total))

    def finished_epoch(self, row):
        self._tell("finished", row)

    def of(self, event):
        return [value for name, value in self.events if name == event]


def plan_of(config=CONFIG):
    model = LinearModel(config=SMALL.replace(dropout_rate=config.model.dropout_rate))
    splits = array_splits(train=3 * config.batch_size + 1, test=9)
    return Plan(config, splits, model, CROPPED, 15, config.batch_size, STEPS_PER_EPOCH, 0)


def go(path, config=CONFIG, at=None):
    recorder = Recorder(at)
    return train(plan_of(config), RunDirectory(path), recorder, recorder.stop), recorder


def saved(path, config=CONFIG):
    """The newest state and progress on disk, and the step of each checkpoint."""
    schedule = learning_rate_schedule(
        config.optimization, steps_per_epoch=STEPS_PER_EPOCH, epochs=config.epochs
    )
    variables = plan_of(config).model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    average = config.optimization.ema_decay is not None
    like = create_state(variables, make_optimizer(config.optimization, schedule), average=average)
    folder = RunDirectory(path).checkpoints
    steps = sorted(int(name) for name in entries(folder) if name.isdigit())
    with TrainingCheckpoints(folder) as checkpoints:
        return *checkpoints.restore(like), steps


def untimed(row):
    return {name: value for name, value in row.items() if name not in TIMINGS}


def rows_of(path):
    lines = RunDirectory(path).metrics.read_text().splitlines()
    return [untimed(json.loads(line)) for line in lines]


@pytest.fixture(autouse=True)
def results(monkeypatch):
    """Writing results is another file's test; here only what they are made of."""
    written = []

    def write(run, **parts):
        written.append(parts)
        return {"top1": parts["sums"].top1}

    monkeypatch.setattr(loop, "write_results", write)
    return written


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder, outcome and recorder."""
    path = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_results", lambda run, **parts: {"top1": parts["sums"].top1})
        outcome, recorder = go(path)
    return path, outcome, recorder


def test_a_whole_run_is_told_written_and_kept(whole):
    path, outcome, recorder = whole
    assert outcome.finished
    assert outcome.step == 12
    assert recorder.events[0] == ("planned", 0)
    assert [progress.step for progress in recorder.of("stepped")] == list(range(1, 13))
    assert [progress.epoch for progress in recorder.of("stepped")] == [1] * 3 + [2] * 3 + [
        3
    ] * 3 + [4] * 3
    assert recorder.of("evaluating") == [(8, 9), (9, 9)] * 4
    assert rows_of(path) == [untimed(row) for row in recorder.of("finished")]
    rows = rows_of(path)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert all(0 <= row["train_accuracy"] <= 1 and 0 <= row["test_accuracy"] <= 1 for row in rows)
    _, progress, steps = saved(path)
    assert steps == [9, 12]
    assert [untimed(row) for row in progress["rows"]] == rows
    assert outcome.evaluation == {"top1": rows[-1]["test_accuracy"]}


def test_the_logged_rate_is_the_last_step_s(whole):
    rates = [row["learning_rate"] for row in rows_of(whole[0])]
    expected = [0.05 * 2 / 3] + [
        0.05 * 0.5 * (1 + math.cos(math.pi * (step - 3) / 9)) for step in (5, 8, 11)
    ]
    assert rates == pytest.approx(expected, rel=1e-5)


def in_step(number):
    return lambda event, value: event == "stepped" and value.step == number


STOPS = {
    "before the first step": lambda event, value: event == "planned",
    "in the first epoch": in_step(1),
    "in mid-epoch": in_step(4),
    "after epoch 2": lambda event, value: event == "finished" and value["epoch"] == 2,
    "during an evaluation": lambda event, value: event == "evaluating" and value[0] == 8,
    "at the end of an evaluation": lambda event, value: event == "evaluating" and value[0] == 9,
}


@pytest.mark.parametrize("name", STOPS)
def test_stopped_and_resumed_is_the_same_run_bit_for_bit(whole, tmp_path, name):
    outcome, _ = go(tmp_path, at=STOPS[name])
    assert not outcome.finished
    assert outcome.evaluation is None
    stopped_at = outcome.step
    assert saved(tmp_path)[2][-1] == stopped_at < 12
    outcome, recorder = go(tmp_path)
    assert outcome.finished
    assert recorder.of("planned") == [stopped_at]
    assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])
    assert rows_of(tmp_path) == rows_of(whole[0])


def test_stopped_after_every_step_it_is_still_the_same_run(whole, tmp_path):
    starts = []
    while True:
        outcome, recorder = go(tmp_path, at=lambda event, value: event == "stepped")
        starts += recorder.of("planned")
        if outcome.finished:
            break
    assert len(starts) > 4
    assert starts == sorted(set(starts))
    assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])
    assert rows_of(tmp_path) == rows_of(whole[0])


def test_the_same_run_again_has_the_same_bits(whole, tmp_path):
    go(tmp_path)
    assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])
    assert rows_of(tmp_path) == rows_of(whole[0])


def test_another_seed_is_another_run(whole, tmp_path):
    go(tmp_path, CONFIG.replace(seed=4))
    assert tree_differs(saved(tmp_path)[0].variables, saved(whole[0])[0].variables)


def test_resuming_a_finished_run_changes_nothing(whole, tmp_path, results):
    go(tmp_path)
    outcome, recorder = go(tmp_path)
    assert outcome.finished
    assert recorder.of("stepped") == []
    assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])
    assert rows_of(tmp_path) == rows_of(whole[0])
    assert results[0]["sums"] == results[1]["sums"]


def test_stopping_while_a_finished_run_is_scored_again_is_no_error(tmp_path):
    # Ended between the last checkpoint and the results, a run has only its results to write.
    go(tmp_path)
    outcome, _ = go(tmp_path, at=lambda event, value: event == "planned")
    assert outcome.step == 12


def test_evaluations_and_checkpoints_only_where_due(whole, tmp_path):
    config = CONFIG.replace(evaluate_every_epochs=3, save_every_epochs=2)
    go(tmp_path, config)
    assert ["test_loss" in row for row in rows_of(tmp_path)] == [False, False, True, True]
    assert saved(tmp_path)[2] == [6, 12]
    assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])


def test_what_is_scored_and_kept_is_the_average(tmp_path, results):
    go(tmp_path)
    state = saved(tmp_path)[0]
    assert_same_bits(results[0]["variables"], state.average)
    assert tree_differs(state.average, state.variables)


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
