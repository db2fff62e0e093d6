"""Batches are a pure function of their number, complete, and survive bad images and interrupts."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottleneck_transformer_flax.augmentation.image import (
    Augmentation,
    EvaluationTransform,
    TrainingTransform,
)
from bottleneck_transformer_flax.data import loader, workers
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.batches import Batch, bad_indices
from bottleneck_transformer_flax.data.loader import (
    choose_num_workers,
    evaluation_batches,
    training_batches,
)
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.data.sources.memory import ArraySource
from bottleneck_transformer_flax.data.workers import usable_cores, why_ended
from bottleneck_transformer_flax.decoding import allow_pixels
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.preprocessing import Preprocessing
from data.image_files import numbered_source, write_images

COUNT = 23
SIZE = (6, 5)
EVALUATION = EvaluationTransform(Preprocessing(size=SIZE, crop=1.0))
TRAINING = TrainingTransform(Preprocessing(size=SIZE, crop=1.0), Augmentation(crop="shift"))
# Draws as many random numbers as it takes until a part fits, and more for its policy.
AUGMENTED = TrainingTransform(
    Preprocessing(size=SIZE, crop=1.0),
    Augmentation(crop="resized", aspect_ratio=(0.3, 3.0), policy="rand"),
)


def array_source(count: int = COUNT) -> ArraySource:
    images = np.random.default_rng(0).integers(1, 256, (count, *SIZE, 3), dtype=np.uint8)
    return ArraySource(images, np.arange(count, dtype=np.int32) % 3, ("a", "b", "c"))


def folder_source(root: Path, bad: tuple[int, ...] = ()) -> FolderSource:
    return numbered_source(root, COUNT, SIZE, bad)


def train(count: int, source=None, transform=TRAINING, **options) -> list[Batch]:
    """The first ``count`` batches of 5."""
    options = {"batch_size": 5, "seed": 3, "bad_images": BadImages(skip=True), **options}
    batches = training_batches(source or array_source(), transform, **options)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        for key in ("image", "label", "index", "valid"):
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
            assert one[key].dtype == other[key].dtype
            assert type(one[key]) is np.ndarray


def joined(key: str, batches: list[Batch]) -> np.ndarray:
    return np.concatenate([batch[key] for batch in batches])


def indices(batches: list[Batch]) -> np.ndarray:
    return joined("index", batches)


def test_a_batch_holds_what_it_says():
    source = array_source()
    for batch in train(9, transform=EVALUATION):
        assert batch["image"].shape == (5, *SIZE, 3)
        types = [batch[key].dtype.name for key in ("image", "label", "index", "valid")]
        assert types == ["uint8", "int32", "int32", "bool"]
        assert batch["valid"].all()
        np.testing.assert_array_equal(batch["image"], source.images[batch["index"]])
        np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])


def test_an_epoch_takes_no_image_twice_and_the_next_is_in_another_order():
    steps = COUNT // 5
    batches = train(steps * 40)
    epochs = [indices(batches[i : i + steps]) for i in range(0, len(batches), steps)]
    assert all(len(set(epoch.tolist())) == steps * 5 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 40
    # The images that don't fill a batch are others each time.
    assert set(indices(batches).tolist()) == set(range(COUNT))
    # No image has a place of its own.
    assert len({int(np.flatnonzero(epoch == 7)[0]) for epoch in epochs if 7 in epoch}) > 8


def test_augmentations_are_new_in_every_epoch_and_for_every_image_of_a_batch():
    batches = train(COUNT // 5 * 30)
    images = [(b["index"][row], b["image"][row].tobytes()) for b in batches for row in range(5)]
    assert len({image for index, image in images if index == 7}) > 10
    one = np.repeat(array_source(1).images, COUNT, axis=0)
    same = ArraySource(one, np.zeros(COUNT, np.int32), ("a",))
    (batch,) = train(1, same, batch_size=20)
    assert len({image.tobytes() for image in batch["image"]}) > 8


def test_the_seed_alone_decides_the_order():
    first = train(9)
    assert_same(train(9), first)
    for other in (train(9, seed=4), train(9, seed=2)):
        assert not np.array_equal(indices(first), indices(other))
        # Nor is one seed's second epoch of 4 steps the first of the next seed.
        assert not np.array_equal(indices(first[4:8]), indices(other[:4]))


def test_start_step_goes_on_as_if_never_interrupted():
    """From within the first epoch, its end, the second, and 25 epochs of 4 steps on."""
    whole = train(101 + 9)
    for start_step in (1, 4, 7, 101):
        assert_same(train(9, start_step=start_step), whole[start_step : start_step + 9])


def test_balanced_epochs_have_as_many_images_of_each_class():
    """Over the epochs no image comes once more before all of its class have come."""
    labels = np.repeat(np.arange(3, dtype=np.int32), (60, 20, 3))
    source = ArraySource(np.zeros((83, *SIZE, 3), np.uint8), labels, ("a", "b", "c"))
    options = {"source": source, "batch_size": 1, "balanced": True}
    batches = train(5 * 83, **options)
    epochs = indices(batches).reshape(5, 83)
    assert len({epoch.tobytes() for epoch in epochs}) == 5
    seen = np.zeros(83, int)
    for epoch in epochs:
        assert sorted(np.bincount(labels[epoch])) == [27, 28, 28]
        seen += np.bincount(epoch, minlength=83)
        for images in (seen[:60], seen[60:80], seen[80:]):
            assert images.max() - images.min() <= 1
    assert len(set(labels[epochs[0][:20]].tolist())) == 3
    for start in (7, 83 + 5):
        assert_same(train(9, start_step=start, **options), batches[start : start + 9])
    options |= {"batch_size": 4}
    shards = [train(9, process_shard=(number, 2), **options) for number in range(2)]
    assert_same(whole_of(shards), train(9, **options))
    assert not np.array_equal(indices(train(9, seed=4, **options)), indices(train(9, **options)))


def test_workers_change_nothing(tmp_path, monkeypatch):
    """Two workers, from the middle on, over the ends of epochs of 4 steps, with two bad images.

    One of these has more pixels than are allowed in this process.
    """
    source = folder_source(tmp_path, bad=(3,))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    allow_pixels(40)
    Image.new("RGB", (7, 6)).save(tmp_path / "05.png")
    batches = train(9, source, num_workers=2, start_step=7)
    assert_same(batches, train(16, source)[7:])
    assert {3, 5} == {index for batch in batches for index in bad_indices(batch)}
    # Nor does a later batch overwrite an earlier one.
    assert len({id(batch["image"]) for batch in batches}) == 9
    assert all(batch["image"].base is None for batch in batches)


def whole_of(shares: list[list[Batch]]) -> list[Batch]:
    """The parts that several processes read of the same batches, as one."""
    return [{key: joined(key, parts) for key in parts[0]} for parts in zip(*shares, strict=True)]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_shards_of_all_processes_are_the_whole_batch(processes):
    """In training, resumed, and in an evaluation whose last batch has one image or 7 of 8."""
    shards = [(number, processes) for number in range(processes)]
    for transform in (TRAINING, AUGMENTED):
        options = {"transform": transform, "batch_size": 8}
        whole = train(7, **options)
        for start in (0, 3):
            read = [train(7 - start, process_shard=s, start_step=start, **options) for s in shards]
            assert all(len(batch["image"]) == 8 // processes for batch in read[0])
            assert_same(whole_of(read), whole[start:])
    for source in (array_source(COUNT), array_source(17)):
        read = [evaluate(source, 8, process_shard=shard) for shard in shards]
        assert_same(whole_of(read), evaluate(source, 8))


class Breaks(EvaluationTransform):
    """Fails as no image can, or ends its process."""

    def __call__(self, image, rng):
        if os.environ.get("BREAKS") == "exit":
            os._exit(7)
        raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raise", RuntimeError, "no such thing"),
        ("exit", DataError, "a process that reads images ended with exit code 7$"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_told_here(monkeypatch, how, error, message):
    monkeypatch.setenv("BREAKS", how)
    with pytest.raises(error, match=message):
        train(1, transform=Breaks(EVALUATION.preprocessing), num_workers=2)
    assert not multiprocessing.active_children()


def test_advice_about_a_worker_that_ended_fits_how_it_ended():
    assert "memory has run out; choose fewer --num-workers" in why_ended(-signal.SIGKILL)
    assert "docker run --shm-size" in why_ended(-signal.SIGBUS)
    assert 'if __name__ == "__main__":' in why_ended(1)


def evaluate(source, batch_size: int, **options) -> list[Batch]:
    return list(evaluation_batches(source, EVALUATION, batch_size=batch_size, **options))


@pytest.mark.parametrize("batch_size", [1, 5, COUNT, 40])
def test_evaluation_gives_every_image_once_in_order(batch_size):
    source = array_source()
    batches = evaluate(source, batch_size)
    assert len(batches) == -(-COUNT // batch_size)
    assert all(batch["image"].shape == (batch_size, *SIZE, 3) for batch in batches)
    valid = joined("valid", batches)
    padding = len(valid) - COUNT
    assert valid.tolist() == [True] * COUNT + [False] * padding
    assert indices(batches).tolist() == [*range(COUNT), *[-1] * padding]
    images = joined("image", batches)
    np.testing.assert_array_equal(images[:COUNT], source.images)
    assert not images[COUNT:].any()
    np.testing.assert_array_equal(joined("label", batches)[:COUNT], source.labels)
    assert evaluate(array_source(0), batch_size) == []


def test_a_bad_image_is_marked_and_replaced_by_one_of_its_shard(tmp_path):
    source, skip = folder_source(tmp_path, bad=(0, 1, 6)), {"bad_images": BadImages(skip=True)}
    whole = evaluate(source, 8, **skip)
    split = whole_of([evaluate(source, 8, process_shard=(n, 4), **skip) for n in range(4)])
    for batches in (whole, split):
        assert [bad_indices(batch) for batch in batches] == [[0, 1, 6], [], []]
        for batch in batches:
            good, images = batch["valid"], batch["image"]
            assert (images[good][..., 0].max(axis=(1, 2)) == batch["index"][good] + 1).all()
            assert not images[batch["index"] < 0].any()
            np.testing.assert_array_equal(batch["label"], np.maximum(batch["index"], 0))
    # No black picture is in the batch statistics, except where a whole shard cannot be read.
    readable = {image.tobytes() for image in whole[0]["image"][whole[0]["valid"]]}
    assert all(image.tobytes() in readable for image in whole[0]["image"])
    assert not split[0]["image"][:2].any()
    np.testing.assert_array_equal(split[0]["image"][6], split[0]["image"][7])


def test_workers_are_as_many_as_cores_and_thousands_of_files(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 11}, raising=False)
    for files, expected in ((1, 0), (999, 0), (1000, 1), (2999, 2), (9999, 3)):
        names, labels = ("x.png",) * files, np.zeros(files, np.int32)
        assert choose_num_workers(FolderSource(Path("folder"), names, labels, ("x",))) == expected
    assert choose_num_workers(array_source(9999)) == 0
    # Not every system tells which cores a scheduler has given.
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 64


@pytest.mark.parametrize(
    ("batch_size", "asked", "started", "each"), [(2, 999, 3, "core"), (9, 3, 2, "batch")]
)
def test_no_more_workers_are_started_than_cores_or_batches_and_a_note_says_so_once(
    monkeypatch, caplog, batch_size, asked, started, each
):
    """Of 23 images in an epoch, on a machine of three cores."""
    workers._reduced.clear()
    counts = []

    def read_ahead(draws, read, *, num_workers, **_):
        counts.append(num_workers)
        yield from ()

    monkeypatch.setattr(workers, "usable_cores", lambda: 3)
    monkeypatch.setattr(loader, "read_ahead", read_ahead)
    for count in (asked, asked, started):
        train(1, batch_size=batch_size, num_workers=count)
    evaluate(array_source(), COUNT, num_workers=asked)
    assert counts == [started] * 3 + [1]
    assert caplog.messages == [f"num_workers is {asked}, reduced to {started}: one for each {each}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": COUNT + 1}, f"only {COUNT} training images; .*at most {COUNT}"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"start_step": -1}, "start_step is -1"),
        ({"num_workers": -1}, "num_workers is -1; expected an integer of at least 0, or None"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "less than"),
        ({"process_shard": (0, 2)}, "batch_size is 5, which 2 processes cannot share .* of 2"),
        ({"process_shard": (2, 2)}, r"process_shard is \(2, 2\); expected this process's index"),
    ],
)
def test_arguments_are_checked_before_the_first_batch(options, message):
    with pytest.raises(ConfigError, match=message):
        training_batches(array_source(), TRAINING, **{"batch_size": 5, "seed": 0, **options})


def running() -> list[object]:
    threads = [thread for thread in threading.enumerate() if "read-ahead" in thread.name]
    return [*threads, *multiprocessing.active_children()]


@pytest.mark.parametrize("leave", ["close", "drop"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_threads_and_workers_end_with_the_generator(leave, num_workers, tmp_path):
    source, options = folder_source(tmp_path), {"batch_size": 5, "seed": 0}
    batches = training_batches(source, TRAINING, num_workers=num_workers, **options)
    assert not running()
    next(batches)
    assert len(running()) >= max(1, num_workers)
    if leave == "close":
        batches.close()
    del batches
    deadline = time.monotonic() + 10
    while running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running()


PROGRAM = """
import multiprocessing, signal, sys, time
from pathlib import Path
from bottleneck_transformer_flax.data.loader import training_batches
from bottleneck_transformer_flax.data.sources.folder import list_classes
from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.preprocessing import Preprocessing

if __name__ == "__main__":
    transform = EvaluationTransform(Preprocessing(size=(9, 9), crop=1.0))
    source = list_classes(Path(sys.argv[1]))
    batches = training_batches(source, transform, batch_size=4, seed=0, num_workers=2)
    # As an exception it is lost where it falls into a destructor.
    interrupts = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *received: interrupts.append(received))
    batch = next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    while sys.argv[2] == "wait" and not interrupts:
        batch = next(batches)
        time.sleep(0.01)
"""


@pytest.mark.skipif(os.name != "posix", reason="process groups and their signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, None])
def test_workers_end_quietly(tmp_path, number):
    """On a signal that reaches the whole group, and when the program ends without ``close``."""
    write_images(tmp_path, {"ant": 8})
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", tmp_path, "wait" if number else "leave"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    if number:
        os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
