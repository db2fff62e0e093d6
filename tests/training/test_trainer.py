"""The loop on a model that compiles at once: stopped anywhere and resumed, it is the same run."""

import dataclasses
import math

import pytest

from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.training import trainer as loop
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.trainer import train
from training.linear_runs import (
    CONFIG,
    Recorder,
    go,
    plan_of,
    rows_of,
    saved,
    untimed,
)
from training.tiny import (
    assert_same_bits,
    tree_differs,
)


@pytest.fixture(autouse=True)
def results(monkeypatch):
    """Writing results is another file's test; here only what they are made of."""
    written = []

    def write(run, plan, **parts):
        written.append(parts)
        return {"top1": parts["predictions"].top1}

    monkeypatch.setattr(loop, "write_results", write)
    return written


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
        patch.setattr(
            loop, "write_results", lambda run, plan, **parts: {"top1": parts["predictions"].top1}
        )
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


def test_a_run_with_muon_goes_on_to_the_bit(tmp_path):
    optimization = dataclasses.replace(CONFIG.optimization, optimizer="muon", momentum=0.95)
    config = CONFIG.replace(epochs=2, optimization=optimization)
    go(tmp_path / "whole", config)
    outcome, _ = go(tmp_path / "stopped", config, at=in_step(4))
    assert not outcome.finished
    go(tmp_path / "stopped", config)
    stopped, whole = (saved(tmp_path / name, config)[0] for name in ("stopped", "whole"))
    assert_same_bits(stopped, whole)


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
    first, second = (each["predictions"].losses.tobytes() for each in results)
    assert first == second


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


def test_a_run_does_not_go_on_with_other_images(tmp_path):
    go(tmp_path, at=lambda event, value: event == "finished")
    plan = plan_of()
    labels = plan.splits.train.labels[::-1].copy()
    others = dataclasses.replace(plan.splits.train, labels=labels)
    changed = plan._replace(splits=plan.splits._replace(train=others))
    with pytest.raises(CheckpointError, match=r"not those that the run began with.*--like"):
        train(changed, RunDirectory(tmp_path), Recorder())
    assert go(tmp_path)[0].finished
