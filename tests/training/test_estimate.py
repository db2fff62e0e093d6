"""What a run would take, of a few steps of a run that is known."""

import dataclasses

import jax
import pytest

from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.training import estimate as module
from bottleneck_transformer_flax.training.estimate import (
    Estimate,
    estimate,
    fitting_steps,
    timed_for,
)
from training.linear_runs import CONFIG, folder_setup, setup_of
from training.tiny import truncated_jpeg, write_data


def test_an_estimate_is_of_the_whole_run():
    setup = setup_of(CONFIG.replace(evaluate_every_epochs=3), test=10)
    found = estimate(setup)
    assert (found.steps, found.images, found.evaluations, found.devices) == (12, 24, 2, 2)
    assert found.step_seconds > found.input_seconds >= 0
    assert found.test_seconds == pytest.approx(found.evaluation_seconds * 10 / 9)
    assert found.seconds == pytest.approx(
        found.compile_seconds
        + 12 * found.step_seconds
        + 2 * found.evaluation_seconds
        + found.test_seconds
    )
    state = setup.initial_state()
    assert found.state_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert found.temporaries_bytes is None or found.temporaries_bytes >= 0
    unscored = estimate(setup_of(validation=None))
    assert (unscored.evaluations, unscored.evaluation_seconds, unscored.test_seconds) == (0, 0, 0)


def test_a_bad_image_stops_an_estimate_as_it_would_the_run(tmp_path):
    data = write_data(tmp_path / "data")
    # Scoring, which is tried first, meets the second.
    for part in ("train", "val"):
        bad = truncated_jpeg(data / part / "ant/0.jpg")
        with pytest.raises(DataError, match=rf"{bad}.*--skip-bad-images"):
            estimate(folder_setup(data, batch_size=12))
    skipping = dataclasses.replace(CONFIG.input, skip_bad_images=True)
    assert estimate(folder_setup(data, batch_size=12, input=skipping)).steps == 4


def test_as_many_steps_fit_as_end_within_the_time(monkeypatch):
    """An epoch of 3 steps of 2 s and a validation of 2 s, so 8 s; 30 s for all else."""
    monkeypatch.setattr(module, "_WRITING_SECONDS", 7.0)
    setup = setup_of()
    assert setup.steps_per_epoch == 3
    found = Estimate(
        steps=12,
        images=24,
        evaluations=2,
        devices=1,
        state_bytes=0,
        temporaries_bytes=None,
        compile_seconds=20.0,
        step_seconds=2.0,
        input_seconds=0.0,
        evaluation_seconds=2.0,
        test_seconds=3.0,
    )
    for seconds, steps in ((40.5, 3), (45.0, 4), (48.3, 5), (48.5, 6), (50.7, 6), (3630.0, 1281)):
        assert fitting_steps(setup, found, seconds) == steps
        taken, more = (30 + 2 * count + 2 * -(-count // 3) for count in (steps, steps + 1))
        assert taken <= seconds * 0.95 < more + 2
    with pytest.raises(ConfigError, match="one takes 8 s here, and everything else 30 s more"):
        fitting_steps(setup, found, 38.0)


@pytest.mark.parametrize(("given", "timed"), [(60.0, 6), (300.0, 6), (900.0, 18), (9e4, 60)])
def test_a_longer_run_is_timed_for_longer_but_for_a_minute_at_most(given, timed):
    assert timed_for(given) == pytest.approx(timed)
