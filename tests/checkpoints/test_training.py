"""Training states through orbax: what is saved comes back, the newest stay, misfits are told."""

import errno
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bottleneck_transformer_flax.checkpoints import training as training_state
from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.training.train_state import create_state
from reference.damage import cut_short, empty, flip_a_bit
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
        step, back, progress = checkpoints.restore(state_of(2, average=average))
    assert step == 7
    assert_same_bits(back, state)
    assert progress == PROGRESS


def test_the_newest_two_stay(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        for step in (1, 2, 5, 9):
            checkpoints.save(step, state_of(step), {"step": step})
    assert [name for name in entries(tmp_path) if name.isdigit()] == ["5", "9"]
    with TrainingCheckpoints(tmp_path) as checkpoints:
        _, back, progress = checkpoints.restore(state_of())
    assert_same_bits(back, state_of(9))
    assert progress == {"step": 9}


@pytest.fixture
def slow_disk(monkeypatch):
    """Writing goes on until the event that this is has been set; the digests come last."""
    done = threading.Event()
    write = training_state.write_digests

    def write_when_done(folder):
        assert done.wait(60)
        write(folder)

    monkeypatch.setattr(training_state, "write_digests", write_when_done)
    yield done
    done.set()


def test_nothing_waits_for_a_slow_disk_but_the_end(tmp_path, slow_disk):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state_of(2), {"step": 2}, wait=False)
        # Both return while the first is still being written.
        checkpoints.save(3, state_of(3), {"step": 3}, wait=False)
        assert "2" not in entries(tmp_path)
        slow_disk.set()
        checkpoints.save(4, state_of(4), {"step": 4})
    assert [name for name in entries(tmp_path) if name.isdigit()] == ["2", "4"]


def test_a_state_may_be_used_up_while_it_is_written(tmp_path, slow_disk):
    """As the next training step does, which is given the state to reuse its memory."""
    expected, given = state_of(2), state_of(2)
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(2, given, PROGRESS, wait=False)
        # Its memory is used again, unless the writer has a view of it and not a copy.
        jax.block_until_ready(jax.jit(_moved_on, donate_argnums=0)(given))
        slow_disk.set()
    with TrainingCheckpoints(tmp_path) as checkpoints:
        assert_same_bits(checkpoints.restore(state_of()).state, expected)


def _moved_on(state):
    return jax.tree.map(lambda leaf: leaf + 1, state)


def test_saving_the_same_step_again_is_no_error(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state_of(), PROGRESS)
        checkpoints.save(3, state_of(), PROGRESS)
        assert checkpoints.latest_step() == 3


def test_nothing_to_restore(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state_of()) is None


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


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with TrainingCheckpoints(folder) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, state_of(step), {"step": step})
    return folder


@pytest.mark.parametrize("damage", [empty, cut_short, flip_a_bit, Path.unlink])
def test_whichever_file_is_damaged_the_checkpoint_before_it_is_taken(
    two_saved, tmp_path, damage, caplog
):
    largest = max(files_of(two_saved / "4" / "state"), key=lambda file: file.stat().st_size)
    for number, file in enumerate(
        [largest, two_saved / "4" / "progress" / "metadata", two_saved / "4" / "digests.json"]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(two_saved, folder)
        damage(folder / file.relative_to(two_saved))
        caplog.clear()
        with TrainingCheckpoints(folder) as checkpoints:
            step, back, progress = checkpoints.restore(state_of())
            assert (step, progress) == (2, {"step": 2})
            assert_same_bits(back, state_of(2))
            (warning,) = caplog.messages
            assert "4.damaged" in warning
            # What comes after it takes its place.
            checkpoints.save(4, state_of(5), {"step": 4})
        with TrainingCheckpoints(folder) as checkpoints:
            assert_same_bits(checkpoints.restore(state_of()).state, state_of(5))


def test_the_same_step_may_be_damaged_again(two_saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two_saved, folder)
    for again in range(3):
        cut_short(max(files_of(folder / "4"), key=lambda file: file.stat().st_size))
        with TrainingCheckpoints(folder) as checkpoints:
            assert checkpoints.restore(state_of()).step == 2
            checkpoints.save(4, state_of(again), {"step": 4})
    assert {"4", "4.damaged", "4.damaged-2", "4.damaged-3"} <= set(entries(folder))


def test_progress_is_looked_at_before_the_state_is_read(two_saved):
    def refuse(progress):
        assert progress == {"step": 4}
        raise CheckpointError("of other images")

    with (
        TrainingCheckpoints(two_saved) as checkpoints,
        pytest.raises(CheckpointError, match="of other images"),
    ):
        checkpoints.restore(state_of(shape=(7, 5)), refuse)


def test_of_a_folder_that_was_emptied_the_checkpoint_before_it_is_taken(two_saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two_saved, folder)
    shutil.rmtree(folder / "4")
    (folder / "4").mkdir()
    with TrainingCheckpoints(folder) as checkpoints:
        assert checkpoints.restore(state_of()).step == 2


def test_every_file_of_a_checkpoint_has_a_digest(two_saved):
    digests = json.loads((two_saved / "4" / "digests.json").read_text())
    expected = {
        file.relative_to(two_saved / "4").as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files_of(two_saved / "4")
        if file.name not in ("digests.json", "_CHECKPOINT_METADATA")
    }
    assert len(expected) > 3
    assert digests == expected


def test_the_files_without_a_digest_are_not_needed(two_saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two_saved, folder)
    empty(folder / "4" / "_CHECKPOINT_METADATA")
    with TrainingCheckpoints(folder) as checkpoints:
        step, back, _ = checkpoints.restore(state_of())
    assert step == 4
    assert_same_bits(back, state_of(4))


def test_where_all_are_damaged_it_is_an_error(two_saved, tmp_path):
    shutil.copytree(two_saved, tmp_path / "copy")
    for step in ("2", "4"):
        empty(tmp_path / "copy" / step / "progress" / "metadata")
    with (
        TrainingCheckpoints(tmp_path / "copy") as checkpoints,
        pytest.raises(CheckpointError, match="every checkpoint"),
    ):
        checkpoints.restore(state_of())


def test_a_full_disk_is_told_and_what_was_saved_before_is_whole(tmp_path, monkeypatch):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state_of(2), {"step": 2})

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(training_state, "write_digests", full)
    with (
        pytest.raises(CheckpointError, match=r"No space left on device; .*2 is whole"),
        TrainingCheckpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(4, state_of(4), {"step": 4})
    with TrainingCheckpoints(tmp_path) as checkpoints:
        step, back, _ = checkpoints.restore(state_of())
    assert step == 2
    assert_same_bits(back, state_of(2))


@pytest.mark.parametrize("name", ["a [1]", "what?", "*", "[!x]*?"])
def test_a_folder_whose_name_looks_like_a_pattern(tmp_path, name):
    directory = tmp_path / name / "checkpoints"
    with TrainingCheckpoints(directory) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_of(step), {"step": step})
        assert checkpoints.path(3) == directory / "3"
    with TrainingCheckpoints(directory) as checkpoints:
        _, back, progress = checkpoints.restore(state_of())
    assert_same_bits(back, state_of(3))
    assert progress == {"step": 3}
    assert [name for name in entries(directory) if name.isdigit()] == ["2", "3"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(CheckpointError, match="a file in its place"):
        TrainingCheckpoints(tmp_path / "checkpoints")
