"""The trainer on a model that compiles at once: stopped anywhere and resumed, it is one run."""

import dataclasses
import errno
import math
import os
import resource
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.evaluation.calibration import fit_temperature
from bottleneck_transformer_flax.training import artifacts, trainer
from bottleneck_transformer_flax.training.metrics import Progress
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.trainer import train
from reference.damage import empty
from training.linear_runs import (
    CONFIG,
    Recorder,
    after_epoch,
    folder_setup,
    go,
    in_step,
    numbered,
    predictions_of,
    rows_of,
    saved,
    setup_of,
    untimed,
)
from training.tiny import (
    CLASSES,
    CROPPED,
    assert_same_bits,
    entries,
    tree_differs,
    truncated_jpeg,
    write_data,
)


@pytest.fixture(scope="module", autouse=True)
def all_written():
    """What artifacts would be made from; writing them is another file's test."""
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "write_artifacts", lambda *arguments: given.append(arguments))
        patch.setattr(artifacts, "save_pretrained", lambda *_, **__: None)
        yield given


@pytest.fixture
def written(all_written):
    all_written.clear()
    return all_written


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder, outcome and recorder."""
    path = tmp_path_factory.mktemp("whole")
    save = TrainingCheckpoints.save
    with pytest.MonkeyPatch.context() as patch:
        # Its epochs are shorter than a checkpoint takes to be written.
        patch.setattr(
            TrainingCheckpoints, "save", lambda *arguments, wait: save(*arguments, wait=True)
        )
        outcome, recorder = go(path)
    return path, outcome, recorder


def test_callbacks_hear_the_same_of_every_step_evaluation_and_epoch(whole, tmp_path):
    """MFU is measured only where one of them shows it."""
    _, outcome, alone = whole
    assert (outcome.finished, outcome.step) == (True, 12)
    assert alone.events[0] == ("start", 0)
    assert alone.events[-1] == ("end", None)
    assert [step.step for step in alone.of("step")] == list(range(1, 13))
    assert alone.of("evaluation") == [("validation", 8, 9), ("validation", 9, 9)] * 4
    assert [row["epoch"] for row in alone.of("epoch")] == [1, 2, 3, 4]
    assert not any("mfu" in row for row in alone.of("epoch"))
    first, second, heard = Recorder(), Recorder(), []
    for callback in (first, second):
        callback.at = lambda *_, callback=callback: heard.append(callback)
    second.shows_mfu = True
    train(setup_of(CONFIG.replace(epochs=1)), RunDirectory(tmp_path), [first, second])
    assert first.events == second.events
    assert heard == [first, second] * len(first.events)
    assert "mfu" in first.of("epoch")[0]


def test_metrics_and_the_last_two_checkpoints_are_on_disk(whole):
    path, outcome, recorder = whole
    rows = rows_of(path)
    assert rows == [untimed(row) for row in recorder.of("epoch")]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6), (3, 9), (4, 12)]
    for row in rows:
        for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
            assert 0 <= row[f"validation_{metric}"] <= 1
        assert 0 <= row["train_accuracy"] <= 1
        # Nine images are too few to fit one.
        assert row["temperature"] is None
    # The learning rate of an epoch is that of its last step.
    rates = [2 / 3, *(0.5 * (1 + math.cos(math.pi * (step - 3) / 9)) for step in (5, 8, 11))]
    assert [row["learning_rate"] / 0.05 for row in rows] == pytest.approx(rates, rel=1e-5)
    _, progress, steps = saved(path)
    assert steps == [9, 12]
    assert [untimed(row) for row in progress["rows"]] == rows
    evaluation = outcome.evaluation
    assert (evaluation["split"], evaluation["count"]) == ("validation", 9)
    assert evaluation["top1"] == rows[-1]["validation_accuracy"]


def assert_same_run(path, expected):
    """The same state, bit for bit, and the same rows."""
    assert_same_bits(saved(path)[0], saved(expected)[0])
    assert rows_of(path) == rows_of(expected)


STOPS = {
    "before the first step": lambda event, value: event == "start",
    "before an evaluation": in_step(1),
    "after epoch 2": after_epoch(2),
    "during an evaluation": lambda event, value: value == ("validation", 8, 9),
    "at the end of an evaluation": lambda event, value: value == ("validation", 9, 9),
    "after every step": lambda event, value: event == "step",
}


@pytest.mark.parametrize("name", STOPS)
def test_stopped_and_resumed_is_the_same_run_bit_for_bit(whole, tmp_path, name):
    starts, finished, at = [], False, STOPS[name]
    while not finished:
        outcome, recorder = go(tmp_path, at=at)
        starts += recorder.of("start")
        finished = outcome.finished
        if not finished:
            assert outcome.evaluation is None
            assert recorder.events[-2:] == [("stop", None), ("end", None)]
            assert saved(tmp_path)[2][-1] == outcome.step
        at = at if name == "after every step" else None
    assert starts == sorted(starts)
    assert (len(set(starts)) > 4) if name == "after every step" else (len(starts) == 2)
    assert_same_run(tmp_path, whole[0])


def test_another_seed_gives_other_bits():
    first, other = (setup_of(CONFIG.replace(seed=seed)).initial_state() for seed in (3, 4))
    assert tree_differs(first.variables, other.variables)


MUON = dataclasses.replace(CONFIG.optimization, optimizer="muon", momentum=0.95)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"optimization": MUON}, marks=pytest.mark.slow),
        pytest.param({"class_balance": "weights"}, marks=pytest.mark.slow),
        {"class_balance": "sampling"},
    ],
    ids=["muon", "weights", "sampling"],
)
def test_other_runs_resume_to_the_bit(whole, tmp_path, changes):
    one_image_a_step = CONFIG.replace(epochs=2, batch_size=1)
    config = one_image_a_step.replace(**changes)
    go(tmp_path / "whole", config)
    # In the middle of the first epoch of seven steps.
    assert go(tmp_path / "stopped", config, at=in_step(2))[0].step == 4
    go(tmp_path / "stopped", config)
    stopped, expected = (saved(tmp_path / name, config)[0] for name in ("stopped", "whole"))
    assert_same_bits(stopped, expected)
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")
    if "class_balance" in changes:
        go(tmp_path / "plain", one_image_a_step)
        assert tree_differs(saved(tmp_path / "plain", config)[0], expected)


def test_a_finished_run_takes_no_step_and_writes_the_same_artifacts_of_the_average(
    whole, tmp_path, written
):
    """Killed between its last checkpoint and its artifacts, it has only these left to write."""
    go(tmp_path)
    stopped, _ = go(tmp_path, at=lambda event, value: event == "start")
    assert (stopped.finished, stopped.step) == (False, 12)
    outcome, recorder = go(tmp_path)
    assert outcome.finished
    assert recorder.of("step") == []
    assert_same_run(tmp_path, whole[0])
    (_, _, variables, _, first, _), (*_, second, _) = written
    np.testing.assert_array_equal(first.losses, second.losses)
    state = saved(tmp_path)[0]
    assert_same_bits(variables, state.average)
    assert tree_differs(state.average, state.variables)


def test_validations_and_checkpoints_come_when_they_are_due_and_change_nothing(whole, tmp_path):
    config = CONFIG.replace(evaluate_every_epochs=3, save_every_epochs=2)
    go(tmp_path, config)
    assert ["validation_loss" in row for row in rows_of(tmp_path)] == [False, False, True, True]
    assert saved(tmp_path)[2] == [6, 12]
    assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])


def test_of_equal_accuracies_the_lower_loss_is_the_best_then_the_later(tmp_path, monkeypatch):
    scores, kept = iter([(0.75, 0.5), (0.75, 0.25), (0.75, 0.5), (0.75, 0.25)]), []

    def validate(*_):
        return predictions_of(*next(scores))

    def keep(run, setup, variables, row):
        kept.append((row["epoch"], variables))

    monkeypatch.setattr(trainer, "_evaluate", validate)
    monkeypatch.setattr(trainer, "save_best", keep)
    go(tmp_path, at=after_epoch(2))
    assert_same_bits(kept[-1][1], saved(tmp_path)[0].average)
    # Resumed, it keeps the best of the checkpoint once more, which a kill may have prevented.
    go(tmp_path)
    assert [epoch for epoch, _ in kept] == [1, 2, 2, 4]
    assert [row["best"] for row in rows_of(tmp_path)] == [True, True, False, True]


def test_a_higher_accuracy_is_the_best_whatever_its_loss():
    progress = Progress(rows=[{"validation_accuracy": 0.5, "validation_loss": 0.1, "best": True}])
    assert progress.is_best(0.75, 9.0)
    assert not progress.is_best(0.25, 0.0)


def test_images_grow_by_whole_strides_to_the_full_size():
    options = dataclasses.replace(CONFIG.input, progressive_phases=3, progressive_start=0.5)
    setup = setup_of(CONFIG.replace(epochs=7, input=options))
    setup = dataclasses.replace(setup, preprocessing=CROPPED.replace(size=(18, 26)))
    sizes = [(8, 12)] * 3 + [(12, 20)] * 2 + [(18, 26)] * 2
    assert [setup.image_size(epoch) for epoch in range(1, 8)] == sizes
    with closing(setup.batches(0, BadImages(skip=False))) as batches:
        shapes = [next(batches)["image"].shape[1:3] for _ in range(setup.total_steps)]
    assert shapes == [size for size in sizes for _ in range(setup.steps_per_epoch)]


@pytest.mark.parametrize(("validation", "test"), [(9, 10), (None, 10), (None, None)])
def test_the_last_model_is_scored_once_and_only_a_validation_split_makes_a_best_one(
    whole, tmp_path, written, validation, test
):
    outcome, recorder = go(tmp_path, validation=validation, test=test)
    assert outcome.finished
    expected = ["validation"] * 8 if validation else []
    expected += ["test"] * 2 if test else []
    assert [split for split, _, _ in recorder.of("evaluation")] == expected
    for row in rows_of(tmp_path):
        assert {"validation_loss", "best"} <= row.keys() if validation else "best" not in row
    *_, predictions, evaluation = written[0]
    assert (predictions is None) == (evaluation is None) == (test is None)
    assert outcome.evaluation == evaluation
    if validation:
        assert (evaluation["split"], evaluation["count"]) == ("test", test)
        assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])


def test_a_temperature_is_fitted_on_validation_and_applied_to_what_is_scored(tmp_path, written):
    config = CONFIG.replace(epochs=1)
    go(tmp_path / "calibrated", config, validation=60, test=70)
    setup = setup_of(config, validation=60, test=70)
    variables = saved(tmp_path / "calibrated")[0].average
    validation, test = (
        setup.evaluator(variables, getattr(setup.splits, split)) for split in ("validation", "test")
    )
    temperature = fit_temperature(validation.logits, validation.labels)
    assert rows_of(tmp_path / "calibrated")[0]["temperature"] == temperature
    *_, predictions, evaluation = written.pop()
    expected = test.calibrated(temperature)
    np.testing.assert_array_equal(predictions.top_probabilities, expected.top_probabilities)
    before = {"temperature": temperature, "uncalibrated_ece": round(test.ece, 6)}
    assert evaluation == {"split": "test", "origin": ""} | before | expected.to_json(CLASSES)
    unchanged = {name: value for name, value in test.to_json(CLASSES).items() if name != "ece"}
    assert unchanged.items() <= evaluation.items()
    go(tmp_path / "not", config.replace(calibration=False), validation=60, test=70)
    assert "temperature" not in rows_of(tmp_path / "not")[0]
    *_, predictions, evaluation = written.pop()
    np.testing.assert_array_equal(predictions.top_probabilities, test.top_probabilities)
    assert evaluation == {"split": "test", "origin": ""} | test.to_json(CLASSES)


def test_a_run_does_not_resume_from_what_it_did_not_begin_with(tmp_path):
    """Other images, another model, or the checkpoint of an earlier version."""
    go(tmp_path, at=after_epoch(1))
    with pytest.raises(CheckpointError, match=r"not those that the run began with.*--like"):
        go(tmp_path, validation=8)
    setup = setup_of()
    preprocessing = setup.preprocessing.replace(mean=(0.1, 0.1, 0.1))
    with pytest.raises(CheckpointError, match=r"not the model that the run began with.*--like"):
        train(dataclasses.replace(setup, preprocessing=preprocessing), RunDirectory(tmp_path))
    assert go(tmp_path)[0].finished
    progress = {"rows": [], "current": {}, "data": "hash", "start": "[]"}
    with TrainingCheckpoints(RunDirectory(tmp_path / "old").checkpoints) as checkpoints:
        checkpoints.save(3, setup.initial_state(), progress)
    with pytest.raises(CheckpointError, match=r"of an earlier version.*--like$"):
        go(tmp_path / "old")


def test_a_run_whose_checkpoints_are_gone_begins_anew_and_says_so(whole, tmp_path, caplog):
    go(tmp_path, at=after_epoch(1))
    shutil.rmtree(RunDirectory(tmp_path).checkpoints)
    assert go(tmp_path)[1].of("start") == [0]
    assert caplog.messages == [f"{tmp_path} has no checkpoint: training begins anew"]
    assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])


def test_bad_images_are_left_out_of_training_and_scores_and_listed(tmp_path):
    data = write_data(tmp_path / "data")
    bad = [str(truncated_jpeg(data / part / "bee/x.jpg")) for part in ("train", "val")]
    skipping = dataclasses.replace(CONFIG.input, skip_bad_images=True)
    setup = folder_setup(data, epochs=1, batch_size=13, input=skipping)
    outcome = train(setup, RunDirectory(tmp_path / "run"))
    assert list(outcome.bad_images.reasons) == bad
    assert outcome.evaluation["count"] == rows_of(tmp_path / "run")[0]["validation_count"] == 9


def test_from_a_damaged_checkpoint_a_run_goes_back_to_the_one_before_it(whole, tmp_path, caplog):
    go(tmp_path, CONFIG.replace(save_every_epochs=3))
    assert numbered(tmp_path) == [9, 12]
    files = (RunDirectory(tmp_path).checkpoints / "12" / "state").rglob("*")
    empty(max(filter(Path.is_file, files), key=lambda file: file.stat().st_size))
    outcome, recorder = go(tmp_path)
    assert (outcome.step, outcome.finished, recorder.of("start")) == (12, True, [9])
    assert "it is now 12.damaged" in caplog.text
    assert entries(RunDirectory(tmp_path).checkpoints) == ["12", "12.damaged", "9"]
    assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])


@pytest.fixture
def files_up_to():
    """Limits how large a file may become: a full disk, but for this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_one_line_and_the_last_checkpoint_stays_good(
    whole, tmp_path, files_up_to
):
    go(tmp_path, at=after_epoch(1))
    files_up_to(2500)
    with pytest.raises(CheckpointError) as caught:
        go(tmp_path, CONFIG.replace(evaluate_every_epochs=4))
    files_up_to(resource.RLIM_INFINITY)
    assert "the checkpoint could not be written to" in str(caught.value)
    assert "checkpoints/3 is intact" in str(caught.value)
    assert go(tmp_path)[0].finished
    assert_same_bits(saved(tmp_path)[0], saved(whole[0])[0])


def test_a_full_disk_under_the_best_model_is_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(artifacts, "save_pretrained", full)
    with pytest.raises(CheckpointError, match=r"best: No space left on device; .*--resume"):
        go(tmp_path)
    assert "best" not in entries(tmp_path)
