"""Items of a grain data set, read ahead by threads or worker processes that end with it."""

import atexit
import contextlib
import gc
import multiprocessing.resource_tracker
import os
import signal
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

_MAX_READER_THREADS = 8
_open_generators: "weakref.WeakSet[Generator[Any, None, None]]" = weakref.WeakSet()


def read_ahead(
    items: "grain.MapDataset[Any]", num_workers: int, *, one_thread: bool
) -> Generator[Any, None, None]:
    """Give the items, which are dictionaries of arrays, in their order.

    Nothing is started before the first is asked for. ``close()``, or dropping the generator, ends
    all that was started.

    Args:
        items: the data set.
        num_workers: processes that read; with 0, threads of this one do.
        one_thread: whether several threads would only wait for each other.
    """
    num_threads = 1 if one_thread or num_workers else min(os.cpu_count() or 1, _MAX_READER_THREADS)
    dataset = items.to_iter_dataset(
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


def _deliver(dataset: "grain.IterDataset[Any]", num_workers: int) -> Generator[Any, None, None]:
    """The items one after the other; tidies up at the end, however it comes."""
    iterator = iter(dataset)
    take = _take_copy if num_workers else _take
    try:
        # One item of each worker: from then on all are started, and closing ends them all.
        with _interrupts_blocked() if num_workers else contextlib.nullcontext():
            ahead = deque(take(iterator) for _ in range(max(num_workers, 1)))
        while (item := ahead.popleft() if ahead else take(iterator)) is not None:
            yield item
    finally:
        iterator.close()
        if num_workers:
            # The items it had read ahead are let go of with it, and parts of it refer to each
            # other: without a collection now, their shared memory would last until the exit.
            del iterator
            gc.collect()
            _finish_deletions()


def _take(iterator: "grain.DatasetIterator[Any]") -> Any | None:
    return next(iterator, None)


def _take_copy(iterator: "grain.DatasetIterator[Any]") -> Any | None:
    """The next item in plain arrays: memory shared with a worker ends with the iterator."""
    item = next(iterator, None)
    return None if item is None else {name: np.array(array) for name, array in item.items()}


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
    this process is the one that answers the interrupt, as soon as the first item is there.
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
