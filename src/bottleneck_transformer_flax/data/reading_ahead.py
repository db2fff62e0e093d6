"""Batches read ahead by threads or by worker processes, which end with whoever takes them."""

import atexit
import contextlib
import ctypes
import itertools
import math
import multiprocessing
import weakref
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np

from bottleneck_transformer_flax.data.batches import Batch, Draw, ReadBatch
from bottleneck_transformer_flax.data.workers import interrupts_blocked
from bottleneck_transformer_flax.errors import DataError

if TYPE_CHECKING:
    import grain

_BATCHES_A_WORKER = 2
_open_generators: "weakref.WeakSet[Generator[Batch, None, None]]" = weakref.WeakSet()


def read_ahead(
    draws: "grain.MapDataset[Draw]", read: ReadBatch, *, num_workers: int, num_threads: int
) -> Generator[Batch, None, None]:
    """Give the batches that are drawn, in their order.

    Nothing is started before the first is asked for. ``close()``, or dropping the generator, ends
    all that was started.

    Args:
        draws: of all batches; it may go on for ever.
        read: makes batches of them.
        num_workers: processes that read.
        num_threads: of this process that read where ``num_workers`` is 0.
    """
    if num_workers:
        generator = _read_in_workers(draws, read, num_workers)
    else:
        generator = _read_in_threads(draws, read, num_threads)
    _open_generators.add(generator)
    return generator


def _read_in_threads(
    draws: "grain.MapDataset[Draw]", read: ReadBatch, num_threads: int
) -> Generator[Batch, None, None]:
    """One batch a thread, and one that is ready."""
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="read-ahead")
    ahead: deque[Future[Batch]] = deque()
    try:
        for step in range(len(draws)):
            ahead.append(executor.submit(_read_step, draws, read, step))
            if len(ahead) > num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _read_step(draws: "grain.MapDataset[Draw]", read: ReadBatch, step: int) -> Batch:
    return read(draws[step])


class _Worker:
    """A process that reads every so many-th batch into memory that it shares with this one."""

    def __init__(self, read: ReadBatch) -> None:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        shape = (_BATCHES_A_WORKER, *read.shape)
        # Without a name: it goes with the processes, however they end.
        shared = context.RawArray(ctypes.c_uint8, math.prod(shape))
        self._images = np.ctypeslib.as_array(shared).reshape(shape)
        self._slots = itertools.cycle(range(_BATCHES_A_WORKER))
        self._asked: deque[int] = deque()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, read, shared), daemon=True)
        self._process.start()
        # Held open here too, the end of the process would not be the end of the pipe.
        theirs.close()

    def ask(self, draw: Draw) -> None:
        """Have it read a batch, at most ``_BATCHES_A_WORKER`` at a time."""
        slot = next(self._slots)
        self._asked.append(slot)
        with contextlib.suppress(OSError):
            self._connection.send((slot, draw))

    def answer(self) -> Batch:
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
        # A copy, for the next batch will be written over this one.
        image = self._images[self._asked.popleft()].copy()
        return Batch(image=image, label=label, index=index, valid=valid)

    def end(self) -> None:
        """Whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _read_in_workers(
    draws: "grain.MapDataset[Draw]", read: ReadBatch, num_workers: int
) -> Generator[Batch, None, None]:
    """The batches are dealt out in turns, so their order is that of one process."""
    with contextlib.ExitStack() as stack:
        workers = []
        with interrupts_blocked():
            for _ in range(num_workers):
                workers.append(_Worker(read))
                stack.callback(workers[-1].end)
        ahead = num_workers * _BATCHES_A_WORKER
        for step in range(min(ahead, len(draws))):
            workers[step % num_workers].ask(draws[step])
        for step in range(len(draws)):
            worker = workers[step % num_workers]
            batch = worker.answer()
            if step + ahead < len(draws):
                worker.ask(draws[step + ahead])
            yield batch


def _serve(connection: Connection, read: ReadBatch, shared: "ctypes.Array[ctypes.c_uint8]") -> None:
    """The worker: read what is asked for, until nobody listens any more."""
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


# Runs before the exit handler of multiprocessing, which is registered earlier, so that workers are
# ended by their generators even where nobody closed these.
@atexit.register
def _close_all() -> None:
    for generator in list(_open_generators):
        # In another thread it may be running; then it cannot be closed from here.
        with contextlib.suppress(ValueError):
            generator.close()
