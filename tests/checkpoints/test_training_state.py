"""Training states through orbax: what is saved comes back, the newest stay, misfits are told."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bottleneck_transformer_flax.checkpoints.training_state import TrainingCheckpoints
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.training.state import create_state
from training.tiny import assert_same_bits, entries

PROGRESS = {"rows": [{"epoch": 1, "loss": 0.1 + 0.2, "name": "蜂"}], "current": {"count": 0}}
OPTIMIZER = optax.adamw(1e-3)


def state_of(seed=0, shape=(3, 2), names=("kernel",), average=True):
    random = np.random.default_rng(seed)
    params = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name in names}
    variables = {"params": params, "batch_stats": {"mean": jnp.full((2,), 0.1)}}
    return create_state(variables, OPTIMIZER, average=average)


@pytest.mark.parametrize("average", [True, False])
def test_a_state_and_its_progress_come_back(tmp_path, average):
    state = state_of(1, average=average)
    with TrainingCheckpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(7, state, PROGRESS)
    with TrainingCheckpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 7
        assert checkpoints.path(7).is_dir()
        back = checkpoints.restore(state_of(2, average=average))
        progress = checkpoints.latest_progress()
    assert_same_bits(back, state)
    assert progress == PROGRESS


def test_the_newest_two_stay(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        for step in (1, 2, 5, 9):
            checkpoints.save(step, state_of(step), {"step": step})
    assert [name for name in entries(tmp_path) if name.isdigit()] == ["5", "9"]
    with TrainingCheckpoints(tmp_path) as checkpoints:
        back, progress = checkpoints.restore(state_of()), checkpoints.latest_progress()
    assert_same_bits(back, state_of(9))
    assert progress == {"step": 9}


def test_saving_the_same_step_again_is_no_error(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state_of(), PROGRESS)
        checkpoints.save(3, state_of(), PROGRESS)
        assert checkpoints.latest_step() == 3


def test_nothing_to_restore(tmp_path):
    with (
        TrainingCheckpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="no checkpoint"),
    ):
        checkpoints.restore(state_of())


@pytest.mark.parametrize(
    "other",
    [{"names": ("weight",)}, {"names": ("kernel", "bias")}, {"shape": (3, 4)}, {"average": False}],
    ids=["other name", "one more", "other shape", "no average"],
)
def test_another_structure_is_told(tmp_path, other):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state_of(), PROGRESS)
    with TrainingCheckpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore(state_of(**other))
        assert str(checkpoints.path(3)) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_told(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state_of(), PROGRESS)
    for file in (tmp_path / "3" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with TrainingCheckpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError):
        checkpoints.restore(state_of())


@pytest.mark.parametrize("name", ["a [1]", "what?", "*", "[!x]*?"])
def test_a_folder_whose_name_looks_like_a_pattern(tmp_path, name):
    directory = tmp_path / name / "checkpoints"
    with TrainingCheckpoints(directory) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_of(step), {"step": step})
        assert checkpoints.path(3) == directory / "3"
    with TrainingCheckpoints(directory) as checkpoints:
        assert_same_bits(checkpoints.restore(state_of()), state_of(3))
        assert checkpoints.latest_progress() == {"step": 3}
    assert [name for name in entries(directory) if name.isdigit()] == ["2", "3"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(CheckpointError, match="a file in its place"):
        TrainingCheckpoints(tmp_path / "checkpoints")
