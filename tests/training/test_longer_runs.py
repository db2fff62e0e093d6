"""A run resumed with more epochs, and one that ends before its epochs are over."""

import dataclasses
import json
import shutil

import pytest

from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.training import artifacts, trainer
from bottleneck_transformer_flax.training.metrics import Progress
from bottleneck_transformer_flax.training.resuming import restore_or_initialize
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from training.linear_runs import (
    CONFIG,
    after_epoch,
    go,
    in_step,
    predictions_of,
    rows_of,
    saved,
    setup_of,
)
from training.tiny import assert_same_bits

SHORT, LONG = CONFIG.replace(epochs=2), CONFIG
PLANNED = [{"from_step": 0, "epochs": 2}, {"from_step": 6, "epochs": 4}]


@pytest.fixture(autouse=True)
def written(monkeypatch):
    """What artifacts would be made from; writing them is another file's test."""
    given = []
    monkeypatch.setattr(trainer, "write_artifacts", lambda *arguments: given.append(arguments))
    monkeypatch.setattr(artifacts, "save_pretrained", lambda *_, **__: None)
    return given


def test_a_finished_run_goes_on_to_more_epochs_with_the_rates_of_so_many(tmp_path, written):
    """Stopped on the way, it ends with the same bits; its record keeps both numbers."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    RunDirectory(whole).create(SHORT)
    assert go(whole, SHORT, test=10)[0].step == 6
    shutil.copytree(whole, stopped)
    written.clear()
    outcome, recorder = go(whole, LONG, test=10)
    assert (outcome.finished, outcome.step, recorder.of("start")) == (True, 12, [6])
    # The artifacts of the former end stay until this one, which scores the test images again.
    assert len(written) == 1
    assert [split for split, *_ in recorder.of("evaluation")].count("test") == 2
    rates = setup_of(LONG, test=10).learning_rates
    assert [step.learning_rate for step in recorder.of("step")] == rates[6:].tolist()
    assert not go(stopped, LONG, at=in_step(8), test=10)[0].finished
    assert go(stopped, LONG, test=10)[0].finished
    assert_same_bits(saved(stopped)[0], saved(whole)[0])
    assert rows_of(stopped) == rows_of(whole)
    for path in (whole, stopped):
        assert saved(path)[1]["planned"] == PLANNED
        assert json.loads((path / "run.json").read_text())["planned"] == PLANNED
        assert RunDirectory(path).read_config() == LONG


def test_a_run_of_so_many_steps_ends_within_an_epoch_and_may_go_on(tmp_path):
    """Steps 1 to 7 of 12: two epochs, and a third of the next, which is validated like them."""
    config, stopped = CONFIG.replace(max_steps=7), tmp_path / "stopped"
    setup = setup_of(config)
    assert (setup.config.epochs, setup.total_steps) == (3, 7)
    assert setup.learning_rates[-1] > 0.1 * max(setup.learning_rates)
    outcome, recorder = go(tmp_path / "whole", config)
    assert (outcome.finished, outcome.step) == (True, 7)
    rows = rows_of(tmp_path / "whole")
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6), (3, 7)]
    assert all("validation_accuracy" in row for row in rows)
    assert [step.learning_rate for step in recorder.of("step")] == setup.learning_rates.tolist()
    assert not go(stopped, config, at=in_step(4))[0].finished
    assert go(stopped, config)[0].finished
    assert_same_bits(saved(stopped)[0], saved(tmp_path / "whole")[0])
    assert rows_of(stopped) == rows
    # With more steps than there are, or none given, the epochs decide.
    assert setup_of(CONFIG.replace(max_steps=99)).total_steps == 12
    outcome, _ = go(stopped, CONFIG)
    assert (outcome.finished, outcome.step) == (True, 12)
    assert [(row["epoch"], row["step"]) for row in rows_of(stopped)[2:]] == [(3, 7), (4, 12)]


def test_with_a_checkpoint_of_an_earlier_commit_run_json_has_the_former_number(tmp_path):
    RunDirectory(tmp_path).create(SHORT)
    progress = Progress(step=6).to_json()
    del progress["planned"]
    folder = RunDirectory(tmp_path).checkpoints
    with TrainingCheckpoints(folder) as checkpoints:
        checkpoints.save(6, setup_of().initial_state(), progress | setup_of().hashes)
    with TrainingCheckpoints(folder) as checkpoints:
        _, progress = restore_or_initialize(setup_of(), RunDirectory(tmp_path), checkpoints)
    assert (progress.planned, progress.is_extended) == (PLANNED, True)


def test_epochs_that_are_over_already_and_growing_images_are_refused(tmp_path):
    grows = CONFIG.replace(input=dataclasses.replace(CONFIG.input, progressive_phases=2))
    assert go(tmp_path, grows, at=in_step(4))[0].step == 6
    with pytest.raises(ConfigError, match=r"epochs is 1, but 6 steps of 3 .* expected at least 2$"):
        go(tmp_path, CONFIG.replace(epochs=1))
    told = rf"epochs is 5, .*; finish the run, then begin .* with --pretrained {tmp_path}$"
    with pytest.raises(ConfigError, match=told):
        go(tmp_path, grows.replace(epochs=5))
    # A refusal changes nothing, and an unfinished run may also take fewer.
    outcome, recorder = go(tmp_path, CONFIG.replace(epochs=3))
    assert (outcome.finished, outcome.step, recorder.of("start")) == (True, 9, [6])


def test_a_run_ends_where_it_was_validated(tmp_path):
    rarely = CONFIG.replace(evaluate_every_epochs=3)
    assert go(tmp_path, rarely, at=after_epoch(2))[0].step == 6
    with pytest.raises(ConfigError, match=r"epoch 2 is over and was not .* expected at least 3$"):
        go(tmp_path, rarely.replace(epochs=2))
    rows = [{"step": 3, "best": True}, {"step": 6, "best": False}, {"step": 9}]
    impatient = rarely.replace(patience=1)
    assert Progress(6, rows[:2]).has_ended(impatient)
    assert not Progress(9, rows).has_ended(impatient)


VALIDATIONS = ((0.5, 0.9), (0.75, 0.5), (0.75, 0.6), (0.5, 0.5), (0.75, 0.5), (0.5, 0.1))


@pytest.fixture
def validations(monkeypatch):
    """The accuracy and loss of each epoch are those of ``VALIDATIONS``."""

    def validate(run, state, split):
        return predictions_of(*VALIDATIONS[int(state.step) // 3 - 1])

    monkeypatch.setattr(trainer, "_evaluate", validate)


@pytest.mark.usefixtures("validations")
def test_patience_ends_a_run_as_its_last_epoch_would(tmp_path, written):
    """After two validations without a better model, also over a resumption between them."""
    config = CONFIG.replace(epochs=6, patience=2)
    outcome, _ = go(tmp_path, config, at=after_epoch(3))
    assert (outcome.finished, outcome.step) == (False, 9)
    outcome, _ = go(tmp_path, config)
    assert (outcome.finished, outcome.step) == (True, 12)
    assert len(written) == 1
    assert saved(tmp_path, config)[2][-1] == 12
    # It has ended; more epochs alone don't change that, but more patience does.
    outcome, recorder = go(tmp_path, config)
    assert (outcome.finished, recorder.of("step")) == (True, [])
    with pytest.raises(ConfigError, match=r"ended early.*go on to epoch 7, .*--patience"):
        go(tmp_path, config.replace(epochs=7))
    assert go(tmp_path, config.replace(patience=3))[0].step == 18


def test_patience_without_validation_is_refused():
    with pytest.raises(ConfigError, match=r"patience is 2, but without .*--validation-fraction"):
        setup_of(CONFIG.replace(patience=2), validation=None)
