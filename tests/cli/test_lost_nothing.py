"""What a run leaves behind, by the command: from damage and a full disk it goes on, or says so."""

import contextlib
import json
import resource
import shutil
from pathlib import Path

import pytest

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.cli import main
from cli.conftest import QUICK
from reference.damage import cut_short, empty, flip_a_bit
from reference.tensorboard_events import shown
from training.tiny import assert_same_bits, entries, write_data

SMALL = ("--variant", "small", *QUICK[2:])
TRAIN = ("train", "--data", "data", *SMALL, "--save-every-epochs", "1", "--run-directory", "run")
RESUME = ("train", "--resume", "--run-directory", "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_variant):
    """A folder with the data, and a run with its two checkpoints; read only."""
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder / "data")
    with contextlib.chdir(folder):
        assert main(TRAIN) == 0
    assert steps_of(folder / "run") == [2, 4]
    return folder


@pytest.fixture
def unfinished(finished, tmp_path, monkeypatch):
    """The same before its results were written, and in its folder."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    run = tmp_path / "work" / "run"
    shutil.rmtree(run / "pretrained")
    shutil.rmtree(run / "best")
    return run


def steps_of(run):
    return sorted(int(name) for name in entries(run / "checkpoints") if name.isdigit())


def assert_it_goes_on_after_step_2(call, run, finished):
    called = call(*RESUME)
    assert called.code == 0, called
    assert "resume  after step 2 of 4" in called.out
    assert_same_bits(load_pretrained(run).variables, load_pretrained(finished / "run").variables)
    return called


@pytest.mark.parametrize("damage", [empty, cut_short, flip_a_bit])
def test_from_a_damaged_checkpoint_a_run_goes_back_to_the_one_before_it(
    call, unfinished, finished, damage
):
    files = (unfinished / "checkpoints" / "4" / "state").rglob("*")
    largest = max(filter(Path.is_file, files), key=lambda file: file.stat().st_size)
    damage(largest)
    called = assert_it_goes_on_after_step_2(call, unfinished, finished)
    assert "4.damaged is damaged" in called.err


@pytest.fixture
def files_up_to():
    """Limits how large a file may become; a disk that takes no more, but for this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_one_line_and_what_was_saved_stays_good(
    call, fails, unfinished, finished, files_up_to, caplog
):
    shutil.rmtree(unfinished / "checkpoints" / "4")
    files_up_to(40_000)
    message = fails(1, *RESUME)
    files_up_to(resource.RLIM_INFINITY)
    # Outside of pytest this would be on the screen, traceback by traceback.
    assert [record for record in caplog.records if record.name == "absl"] == []
    assert "the checkpoint could not be written to" in message
    assert "File too large" in message
    assert "checkpoints/2 is intact. Check the disk, then continue with --resume" in message
    assert steps_of(unfinished) == [2]
    assert_it_goes_on_after_step_2(call, unfinished, finished)


def test_events_for_tensorboard_are_written_on_demand(call, finished, unfinished):
    assert not (finished / "run" / "tensorboard").exists()
    shutil.rmtree(unfinished)
    assert call(*TRAIN, "--tensorboard").code == 0
    rows = [json.loads(line) for line in (unfinished / "metrics.jsonl").read_text().splitlines()]
    curves = shown(unfinished / "tensorboard")
    assert [step for step, _ in curves["step/mean_loss"]] == [1, 2, 3, 4]
    expected = [(row["step"], pytest.approx(row["validation_accuracy"])) for row in rows]
    assert curves["epoch/validation_accuracy"] == expected
