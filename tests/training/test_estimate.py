"""What a run would take, of a few steps of a run that is known."""

import dataclasses

import jax
import pytest

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.training.estimate import estimate
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
