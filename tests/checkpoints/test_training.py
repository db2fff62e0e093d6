"""Train states through orbax: saved bit for bit, the newest kept, damage and misfits told."""

import copy
import errno
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

from bottleneck_transformer_flax.checkpoints import training as module
from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.errors import CheckpointError
from reference.damage import cut_short, empty, flip_a_bit
from training.tiny import assert_same_bits, entries

PROGRESS = {"rows": [{"epoch": 1, "loss": 0.1 + 0.2, "name": "蜂"}], "current": {"count": 0}}


def state_of(seed=0, shape=(3, 2), names=("kernel",), average=True):
    random = np.random.default_rng(seed)
    params = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name in names}
    return {
        "step": jnp.asarray(seed, jnp.int32),
        "variables": {"params": params, "batch_stats": {"mean": jnp.full((2,), 0.1)}},
        "average": jax.tree.map(jnp.copy, params) if average else None,
        "optimizer_state": optax.adamw(1e-3).init(params),
    }


def restored(folder, like=None):
    with TrainingCheckpoints(folder) as checkpoints:
        return checkpoints.restore(state_of() if like is None else like)


def steps(folder):
    return [name for name in entries(folder) if name.isdigit()]


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with TrainingCheckpoints(folder) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, state_of(step), {"step": step})
    return folder


@pytest.fixture
def two_saved(saved_once, tmp_path):
    """The checkpoints of steps 2 and 4."""
    return shutil.copytree(saved_once, tmp_path / "two")


# orbax would read the second name as a pattern.
@pytest.mark.parametrize(("name", "average"), [("plain", True), ("a [1]*?", False)])
def test_the_newest_two_stay_and_are_restored_bit_for_bit(tmp_path, name, average):
    folder, state = tmp_path / name / "checkpoints", state_of(5, average=average)
    with TrainingCheckpoints(folder) as checkpoints:
        assert checkpoints.restore(state) is None
        for step in (1, 2):
            checkpoints.save(step, state_of(step, average=average), {"step": step})
        checkpoints.save(5, state, PROGRESS)
        # What is saved already stays.
        checkpoints.save(5, state_of(7, average=average), {})
        assert checkpoints.path(5) == folder / "5"
    assert steps(folder) == ["2", "5"]
    step, back, progress = restored(folder, state_of(average=average))
    assert (step, progress) == (5, PROGRESS)
    assert_same_bits(back, state)


@pytest.fixture
def slow_disk(monkeypatch):
    """No other thread writes JSON before this event is set: progress, and at last the digests."""
    done, dumps, caller = threading.Event(), json.dumps, threading.current_thread()

    def dumps_when_done(*arguments, **options):
        assert threading.current_thread() is caller or done.wait(60)
        return dumps(*arguments, **options)

    monkeypatch.setattr(json, "dumps", dumps_when_done)
    yield done
    done.set()


def test_a_save_due_while_one_is_being_written_is_left_out(tmp_path, slow_disk):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state_of(2), {"step": 2}, wait=False)
        checkpoints.save(3, state_of(3), {"step": 3}, wait=False)
        assert steps(tmp_path) == []
        slow_disk.set()
        checkpoints.save(4, state_of(4), {"step": 4})
    assert steps(tmp_path) == ["2", "4"]


def test_a_state_may_be_donated_and_progress_changed_while_they_are_written(tmp_path, slow_disk):
    given, progress = state_of(2), copy.deepcopy(PROGRESS)
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(2, given, progress, wait=False)
        # Its memory is used again, unless the writer has a view of it rather than a copy.
        step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
        jax.block_until_ready(step(given))
        progress["rows"].append({"epoch": 2})
        slow_disk.set()
    _, back, progress = restored(tmp_path)
    assert_same_bits(back, state_of(2))
    assert progress == PROGRESS


@pytest.mark.parametrize(
    "other",
    [{"names": ("weight",)}, {"shape": (3, 4)}, {"average": False}],
    ids=["other name", "other shape", "no average"],
)
def test_another_structure_is_refused(saved_once, refusal, other):
    message = refusal(restored, saved_once, state_of(**other))
    assert message.startswith(f"the checkpoint {saved_once / '4'} is damaged, or was written for")
    assert message.endswith(
        "; remove that folder to resume from an earlier one, or start a new run"
    )


def test_a_checkpoint_with_none_before_it_is_not_to_be_removed(two_saved, refusal):
    shutil.rmtree(two_saved / "2")
    assert refusal(restored, two_saved, state_of(shape=(3, 4))).endswith("; start a new run")


def test_progress_is_checked_before_the_state_is_read(saved_once, refusal):
    def reject(progress):
        assert progress == {"step": 4}
        raise CheckpointError("other images")

    with TrainingCheckpoints(saved_once) as checkpoints:
        assert refusal(checkpoints.restore, state_of(shape=(7, 5)), reject) == "other images"


@pytest.mark.parametrize("damage", [empty, cut_short, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("part", ["state", "progress/metadata", "digests.json"])
def test_every_damage_is_found(saved_once, tmp_path, damage, part):
    folder = shutil.copytree(saved_once / "4", tmp_path / "4")
    assert module.find_damage(folder) is None
    file = folder / part
    if part == "state":
        file = max(files_of(file), key=lambda each: each.stat().st_size)
    damage(file)
    assert module.find_damage(folder) is not None


def test_the_checkpoint_before_a_damaged_one_is_restored_and_the_step_saved_again(
    two_saved, caplog
):
    for again in range(2):
        flip_a_bit(max(files_of(two_saved / "4/state"), key=lambda file: file.stat().st_size))
        with TrainingCheckpoints(two_saved) as checkpoints:
            step, back, progress = checkpoints.restore(state_of())
            assert (step, progress) == (2, {"step": 2})
            assert_same_bits(back, state_of(2))
            checkpoints.save(4, state_of(again), {"step": 4})
        assert_same_bits(restored(two_saved).state, state_of(again))
    assert {"4", "4.damaged", "4.damaged-2"} <= set(entries(two_saved))
    first, second = caplog.messages
    assert first.endswith("it is now 4.damaged")
    assert second.endswith("it is now 4.damaged-2")


def test_where_all_are_damaged_it_is_an_error(two_saved, refusal):
    for step in ("2", "4"):
        empty(two_saved / step / "progress" / "metadata")
    # The second time there are only those set aside.
    for _ in range(2):
        message = refusal(restored, two_saved)
        assert message.startswith(f"every checkpoint in {two_saved} is damaged")


def test_every_file_has_a_digest_but_what_is_not_needed(two_saved):
    files = {file.relative_to(two_saved / "4").as_posix() for file in files_of(two_saved / "4")}
    digests = json.loads((two_saved / "4" / "digests.json").read_text())
    assert len(digests) > 3
    assert files - digests.keys() == {"digests.json", "_CHECKPOINT_METADATA"}
    empty(two_saved / "4" / "_CHECKPOINT_METADATA")
    assert_same_bits(restored(two_saved).state, state_of(4))


def test_a_full_disk_is_told_and_the_checkpoint_before_is_intact(tmp_path, monkeypatch):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state_of(2), {"step": 2})

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_digests", full)
    with (
        pytest.raises(CheckpointError, match=r"no space left on device; .*2 is intact"),
        TrainingCheckpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(4, state_of(4), {"step": 4})
    step, back, _ = restored(tmp_path)
    assert step == 2
    assert_same_bits(back, state_of(2))


def test_a_file_in_the_place_of_the_folder(tmp_path, refusal):
    (tmp_path / "checkpoints").touch()
    assert "a file in its place" in refusal(TrainingCheckpoints, tmp_path / "checkpoints")
