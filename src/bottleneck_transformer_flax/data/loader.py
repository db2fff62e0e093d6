"""Batches of images for training and evaluation, read ahead by threads or worker processes."""

import atexit
import contextlib
import gc
import multiprocessing.resource_tracker
import os
import signal
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypedDict

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Int32, Integer, UInt8

from bottleneck_transformer_flax.data.sources import ImageSource
from bottleneck_transformer_flax.data.transforms import Transform
from bottleneck_transformer_flax.errors import ConfigError, DataError

_MAX_READER_THREADS = 8
# A worker process takes seconds to start: as long as it takes threads to read this many.
_FILES_WORTH_A_WORKER = 1000
_open_generators: "weakref.WeakSet[Generator[Batch, None, None]]" = weakref.WeakSet()


class Batch(TypedDict):
    """Images of one size with their labels.

    Keys:
        image: RGB in [0, 255]; zeros for padding. In the place of an image that could not be
            read stands another of the batch, so that batch statistics are those of images.
        label: index into the source's class names; 0 for padding.
        index: position in the source; -1 for padding.
        valid: False for padding and for images that could not be read.
    """

    image: UInt8[np.ndarray, "b h w 3"]
    label: Int32[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]
    valid: Bool[np.ndarray, " b"]


@dataclass(frozen=True)
class ReadBatch:
    """From positions in a source to a batch: one stage, because stages per image cost more."""

    source: ImageSource
    transform: Transform
    batch_size: int

    def __call__(self, indices: Integer[np.ndarray, " m"], rng: np.random.Generator) -> Batch:
        """Read the images at the given positions, at most ``batch_size``, and pad to that many."""
        height, width = self.transform.preprocessing.size
        batch = Batch(
            image=np.zeros((self.batch_size, height, width, 3), np.uint8),
            label=np.zeros(self.batch_size, np.int32),
            index=np.full(self.batch_size, -1, np.int32),
            valid=np.zeros(self.batch_size, np.bool_),
        )
        for row, index in enumerate(indices.tolist()):
            batch["label"][row] = self.source.labels[index]
            batch["index"][row] = index
            # An error would end the worker, and with it the run: the consumer decides instead.
            with contextlib.suppress(DataError):
                batch["image"][row] = self.transform(self.source.read(index), rng)
                batch["valid"][row] = True
        readable, bad = np.flatnonzero(batch["valid"]), np.flatnonzero(_is_bad(batch))
        if readable.size:
            batch["image"][bad] = batch["image"][np.resize(readable, bad.size)]
        return batch


def training_batches(
    source: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int | None = None,
) -> Generator[Batch, None, None]:
    """Endless batches in an order and with augmentations that are new in every epoch.

    The k-th batch depends only on (source, transform, batch_size, seed, k): a run that starts
    at ``start_step`` goes on exactly as one that was never interrupted, with any number of
    workers. An epoch is ``len(source) // batch_size`` batches; the images left over differ from
    epoch to epoch.

    Args:
        source: the images.
        transform: applied to each image, with a generator of random numbers.
        batch_size: images a batch.
        seed: of the order and of the augmentations, in [0, 2**32).
        start_step: the first batch to give, counted from 0 over all epochs.
        num_workers: worker processes; with 0, threads of this process read ahead, as they do by
            default for images in memory and for few images. The program that starts workers must
            guard its ``__main__``.

    Returns:
        A generator; ``close()``, or dropping it, ends threads and workers.

    Raises:
        ConfigError: when an argument is out of range, or ``batch_size`` exceeds the source.
    """
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, start_step=start_step, num_workers=num_workers or 0, seed=seed)
    if seed >= 2**32:
        raise ConfigError(f"seed is {seed}; expected less than 2**32")
    if batch_size > len(source):
        raise ConfigError(
            f"batch_size is {batch_size} but there are only {len(source)} training images; "
            f"choose a batch_size of at most {len(source)}"
        )
    batches = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .batch(batch_size, drop_remainder=True)
        .random_map(ReadBatch(source, transform, batch_size))
        .repeat()
        .slice(slice(start_step, None))
    )
    return _iterate(batches, source, num_workers)


def evaluation_batches(
    source: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int | None = None,
) -> Generator[Batch, None, None]:
    """Every image once, in order; the last batch is padded to ``batch_size``.

    Arguments and result are as for ``training_batches``.

    Raises:
        ConfigError: when an argument is out of range.
    """
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, num_workers=num_workers or 0)
    batches = (
        grain.MapDataset.range(len(source))
        .batch(batch_size, drop_remainder=False)
        .random_map(ReadBatch(source, transform, batch_size), seed=0)
    )
    return _iterate(batches, source, num_workers)


def choose_num_workers(source: ImageSource) -> int:
    """One a core, but none for images in memory, and none without a thousand files to read."""
    if source.native_size is not None:
        return 0
    return min(os.cpu_count() or 1, len(source) // _FILES_WORTH_A_WORKER)


def bad_images(batch: Batch) -> list[int]:
    """The source positions of images that could not be read; ``source.read`` says why."""
    return [int(index) for index in batch["index"][_is_bad(batch)]]


def _is_bad(batch: Batch) -> Bool[np.ndarray, " b"]:
    return ~batch["valid"] & (batch["index"] >= 0)


def _iterate(
    batches: "grain.MapDataset[Batch]", source: ImageSource, num_workers: int | None
) -> Generator[Batch, None, None]:
    """Set up reading ahead in threads or workers; none starts before the first batch is asked."""
    if num_workers is None:
        num_workers = choose_num_workers(source)
    # Images in memory cost only Python: more threads would take turns at the same lock.
    in_memory = source.native_size is not None
    num_threads = 1 if in_memory or num_workers else min(os.cpu_count() or 1, _MAX_READER_THREADS)
    dataset = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads + 1)
    )
    if num_workers:
        # grain's workers ask for its flags, which only absl programs have parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        )
    generator = _deliver(dataset, num_workers)
    _open_generators.add(generator)
    return generator


def _deliver(dataset: "grain.IterDataset[Batch]", num_workers: int) -> Generator[Batch, None, None]:
    """The batches one after the other; tidies up at the end, however it comes."""
    iterator = iter(dataset)
    take = _take_copy if num_workers else _take
    try:
        # One batch of each worker: from then on all are started, and closing ends them all.
        with _interrupts_blocked() if num_workers else contextlib.nullcontext():
            ahead = deque(take(iterator) for _ in range(max(num_workers, 1)))
        while (batch := ahead.popleft() if ahead else take(iterator)) is not None:
            yield batch
    finally:
        iterator.close()
        if num_workers:
            # The batches it had read ahead are let go of with it, and parts of it refer to each
            # other: without a collection now, their shared memory would last until the exit.
            del iterator
            gc.collect()
            _finish_deletions()


def _take(iterator: "grain.DatasetIterator[Batch]") -> Batch | None:
    return next(iterator, None)


def _take_copy(iterator: "grain.DatasetIterator[Batch]") -> Batch | None:
    """The next batch in plain arrays: memory shared with a worker ends with the iterator."""
    batch = next(iterator, None)
    if batch is None:
        return None
    return Batch(
        image=np.array(batch["image"]),
        label=np.array(batch["label"]),
        index=np.array(batch["index"]),
        valid=np.array(batch["valid"]),
    )


# Runs before the exit handler of multiprocessing, which is registered earlier: a generator that
# nobody closed must end its workers while they and their shared memory can still be reached.
@atexit.register
def _close_all() -> None:
    for generator in list(_open_generators):
        # In another thread it may be running; then it cannot be closed from here.
        with contextlib.suppress(ValueError):
            generator.close()


def _finish_deletions() -> None:
    """Wait until grain's background thread has unlinked the shared memory let go of so far.

    A process that ends earlier prints warnings of leaked memory. grain has no public call for
    it; where a later version keeps the thread elsewhere, there is nothing to wait for.
    """
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

        if (pool := SharedMemoryArray._del_thread_pool) is not None:
            pool.apply_async(int).wait(timeout=5)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep SIGINT from this thread, and so from the worker processes started meanwhile.

    A Ctrl-C reaches every process of a terminal, and each worker would print a traceback. A
    signal mask is inherited, so it covers a worker's start-up too, which no initialiser could;
    this process is the one that answers the interrupt, as soon as the first batch is there.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Started with the first worker, the tracker would unblock the signal again.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_at_least(lowest: int, **values: int) -> None:
    for name, value in values.items():
        if value < lowest:
            raise ConfigError(f"{name} is {value}; expected at least {lowest}")
