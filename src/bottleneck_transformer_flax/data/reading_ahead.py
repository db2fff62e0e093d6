"""Batches read ahead by threads or by worker processes, which end with the generator."""

import contextlib
import ctypes
import itertools
import math
import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import numpy as np

from bottleneck_transformer_flax.data.batches import Batch, Draw, ReadBatch
from bottleneck_transformer_flax.data.workers import Worker, why_ended
from bottleneck_transformer_flax.errors import DataError

_BATCHES_A_WORKER = 2
_THREADS = "read-ahead"


def read_ahead(
    draws: Iterator[Draw],
    read: ReadBatch,
    *,
    num_workers: int,
    num_threads: int,
    on_batch: Callable[[Batch], None],
) -> Generator[Batch, None, None]:
    """Read the batches drawn, and give them in their order.

    Threads or processes start when the first batch is asked for, and end when the generator is
    closed or dropped.

    Args:
        draws: the batches to read; may be endless.
        read: reads a batch.
        num_workers: number of worker processes; with 0, threads of this process read.
        num_threads: number of these threads.
        on_batch: called in another thread as soon as a batch is read.
    """
    if num_workers:
        return _read_in_workers(draws, read, num_workers, on_batch)
    return _read_in_threads(draws, read, num_threads, on_batch)


def _in_order(
    draws: Iterator[Draw], ask: Callable[[Draw], Callable[[], Batch]], ahead: int
) -> Iterator[Batch]:
    """Ask for ``ahead`` batches, then for one more each time the oldest has come."""
    answers: deque[Callable[[], Batch]] = deque()
    for draw in draws:
        if len(answers) < ahead:
            answers.append(ask(draw))
            continue
        batch = answers.popleft()()
        answers.append(ask(draw))
        yield batch
    while answers:
        yield answers.popleft()()


def _read_in_threads(
    draws: Iterator[Draw],
    read: ReadBatch,
    num_threads: int,
    on_batch: Callable[[Batch], None],
) -> Generator[Batch, None, None]:
    """Read one batch in each thread, and have one ready."""

    def read_one(draw: Draw) -> Batch:
        batch = read(draw)
        on_batch(batch)
        return batch

    executor = ThreadPoolExecutor(num_threads, thread_name_prefix=_THREADS)
    try:
        yield from _in_order(
            draws, lambda draw: executor.submit(read_one, draw).result, ahead=num_threads + 1
        )
    finally:
        executor.shutdown(cancel_futures=True)


def _read_in_workers(
    draws: Iterator[Draw],
    read: ReadBatch,
    num_workers: int,
    on_batch: Callable[[Batch], None],
) -> Generator[Batch, None, None]:
    """Deal the batches out in turns, so that their order is that of one process."""
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(num_workers):
            readers.append(_Reader(read, on_batch))
            stack.callback(readers[-1].end)
        turns = itertools.cycle(readers)
        yield from _in_order(
            draws, lambda draw: next(turns).ask(draw), ahead=num_workers * _BATCHES_A_WORKER
        )


class _Reader:
    """A worker process that reads batches into memory that it shares with this one.

    Pickling a whole batch would copy it twice more. Shared memory, allocated once, reads 14 % more
    images a second than grain's workers, which pickle (benchmarks/NOTES.md).
    """

    def __init__(self, read: ReadBatch, on_batch: Callable[[Batch], None]) -> None:
        """Start the process."""
        shape = (_BATCHES_A_WORKER, *read.shape)
        # Without a name: it goes with the processes, however they end.
        shared = multiprocessing.get_context("spawn").RawArray(ctypes.c_uint8, math.prod(shape))
        self._images = np.ctypeslib.as_array(shared).reshape(shape)
        self._slots = itertools.cycle(range(_BATCHES_A_WORKER))
        self._on_batch = on_batch
        # Receives answers while the program waits for something else, such as a compilation.
        self._listener = ThreadPoolExecutor(1, thread_name_prefix=_THREADS)
        self._worker = Worker(_serve, read, shared)

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._worker.kill()
        self._listener.shutdown(cancel_futures=True)
        self._worker.end()

    def ask(self, draw: Draw) -> Callable[[], Batch]:
        """Start reading a batch, at most ``_BATCHES_A_WORKER`` at a time; returns how to get it."""
        slot = next(self._slots)
        # If the process has ended, waiting for its answer raises the error.
        with contextlib.suppress(OSError):
            self._worker.connection.send((slot, draw))
        answer = self._listener.submit(self._answer, slot)

        def batch() -> Batch:
            # A copy, because the next batch will overwrite this one.
            return answer.result() | {"image": self._images[slot].copy()}

        return batch

    def _answer(self, slot: int) -> Batch:
        """Wait for the batch that was asked for first.

        Raises:
            DataError: when the process has ended.
        """
        try:
            answer = self._worker.connection.recv()
        except (EOFError, OSError) as error:
            raise DataError(
                f"a process that reads images ended with {why_ended(self._worker.wait())}"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        label, index, valid = answer
        batch = Batch(image=self._images[slot], label=label, index=index, valid=valid)
        self._on_batch(batch)
        return batch


def _serve(connection: Connection, read: ReadBatch, shared: "ctypes.Array[ctypes.c_uint8]") -> None:
    """In a worker: read what is asked for."""
    images = np.ctypeslib.as_array(shared).reshape(_BATCHES_A_WORKER, *read.shape)
    while True:
        slot, draw = connection.recv()
        try:
            batch = read(draw, images[slot])
        except Exception as error:
            connection.send(error)
            return
        connection.send((batch["label"], batch["index"], batch["valid"]))
