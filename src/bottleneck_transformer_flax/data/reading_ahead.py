"""Batches read ahead by threads or by worker processes, which end with the generator."""

import atexit
import contextlib
import ctypes
import itertools
import math
import multiprocessing
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import numpy as np

from bottleneck_transformer_flax.data.batches import Batch, Draw, ReadBatch
from bottleneck_transformer_flax.data.workers import end_with_parent, interrupts_blocked
from bottleneck_transformer_flax.errors import DataError

_BATCHES_A_WORKER = 2
_open_generators: "weakref.WeakSet[Generator[Batch, None, None]]" = weakref.WeakSet()


def read_ahead(
    draws: Iterator[Draw], read: ReadBatch, *, num_workers: int, num_threads: int
) -> Generator[Batch, None, None]:
    """Give the batches that are drawn, in their order.

    Nothing is started before the first is asked for. ``close()``, or dropping the generator, ends
    all that was started.

    Args:
        draws: the batches to read; may be endless.
        read: reads a batch.
        num_workers: processes that read.
        num_threads: threads of this process that read when ``num_workers`` is 0.
    """
    if num_workers:
        generator = _read_in_workers(draws, read, num_workers)
    else:
        generator = _read_in_threads(draws, read, num_threads)
    _open_generators.add(generator)
    return generator


def _in_order(
    draws: Iterator[Draw], ask: Callable[[Draw], Callable[[], Batch]], ahead: int
) -> Iterator[Batch]:
    """Ask for ``ahead`` batches, then for another whenever the first of them is there."""
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
    draws: Iterator[Draw], read: ReadBatch, num_threads: int
) -> Generator[Batch, None, None]:
    """One batch a thread, and one that is ready."""
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="read-ahead")
    try:
        yield from _in_order(
            draws, lambda draw: executor.submit(read, draw).result, ahead=num_threads + 1
        )
    finally:
        executor.shutdown(cancel_futures=True)


def _read_in_workers(
    draws: Iterator[Draw], read: ReadBatch, num_workers: int
) -> Generator[Batch, None, None]:
    """Deal the batches out in turns, so that their order is that of one process."""
    with contextlib.ExitStack() as stack:
        workers = []
        with interrupts_blocked():
            for _ in range(num_workers):
                workers.append(_Worker(read))
                stack.callback(workers[-1].end)
        turns = itertools.cycle(workers)
        yield from _in_order(
            draws, lambda draw: next(turns).ask(draw), ahead=num_workers * _BATCHES_A_WORKER
        )


class _Worker:
    """A process that reads batches into memory that it shares with this one.

    Pickling whole batches would copy them twice more: shared memory that stays read 14 % more
    images a second than grain's workers, which do (benchmarks/NOTES.md).
    """

    def __init__(self, read: ReadBatch) -> None:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        shape = (_BATCHES_A_WORKER, *read.shape)
        # Without a name: it goes with the processes, however they end.
        shared = context.RawArray(ctypes.c_uint8, math.prod(shape))
        self._images = np.ctypeslib.as_array(shared).reshape(shape)
        self._slots = itertools.cycle(range(_BATCHES_A_WORKER))
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, read, shared), daemon=True)
        self._process.start()
        # If it stayed open here too, the end of the process would not be the end of the pipe.
        theirs.close()

    def ask(self, draw: Draw) -> Callable[[], Batch]:
        """Start reading a batch, at most ``_BATCHES_A_WORKER`` at a time; returns how to get it."""
        slot = next(self._slots)
        with contextlib.suppress(OSError):
            self._connection.send((slot, draw))
        return lambda: self._answer(slot)

    def _answer(self, slot: int) -> Batch:
        """Wait for the batch that was asked for first.

        Raises:
            DataError: when the process has ended.
        """
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise DataError(
                f"a process that reads images ended with exit code {self._process.exitcode}; "
                "where memory may have run out, choose fewer with --num-workers"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        label, index, valid = answer
        # A copy, because the next batch will overwrite this one.
        return Batch(image=self._images[slot].copy(), label=label, index=index, valid=valid)

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, read: ReadBatch, shared: "ctypes.Array[ctypes.c_uint8]") -> None:
    """Run in the worker: read what is asked for until the other end is closed."""
    end_with_parent()
    images = np.ctypeslib.as_array(shared).reshape(_BATCHES_A_WORKER, *read.shape)
    with contextlib.suppress(EOFError, OSError):
        while True:
            slot, draw = connection.recv()
            try:
                batch = read(draw, images[slot])
            except Exception as error:
                connection.send(error)
                return
            connection.send((batch["label"], batch["index"], batch["valid"]))


# Runs before multiprocessing's exit handler, which was registered earlier: generators that nobody
# closed end their own workers.
@atexit.register
def _close_all() -> None:
    for generator in list(_open_generators):
        # One that is running in another thread cannot be closed from here.
        with contextlib.suppress(ValueError):
            generator.close()
