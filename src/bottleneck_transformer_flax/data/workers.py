"""Jobs shared out over several processes."""

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from bottleneck_transformer_flax.errors import BoTNetError, DataError

Job = TypeVar("Job")
Result = TypeVar("Result")
Step = Callable[[], None]

_STEP, _RESULT, _FAILED, _DONE = range(4)


def usable_cores() -> int:
    """The number of cores that this process may run on, which a scheduler may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_jobs(
    work: Callable[[Job, Step], Result],
    jobs: Sequence[Job],
    *,
    num_workers: int,
    on_step: Step,
    on_result: Callable[[Result], None],
) -> None:
    """Do all jobs, in this process or in others, and hand over the results as they come.

    Args:
        work: does one job, and calls its second argument after every step; picklable, as are jobs
            and results.
        jobs: what to do.
        num_workers: processes; with 0 or 1 none is started. A program that starts some must guard
            its ``__main__``.
        on_step: called in this process after every step of any job.
        on_result: called in this process with the result of every job.

    Raises:
        BoTNetError: the first that a job raises; the other processes are then ended.
        OSError: the first that a job raises; the other processes are then ended.
        DataError: when a process ends before its work is done.
    """
    num_workers = min(num_workers, len(jobs))
    if num_workers <= 1:
        for job in jobs:
            on_result(work(job, on_step))
        return
    with interrupts_blocked():
        started = [_start(work, jobs[first::num_workers]) for first in range(num_workers)]
    processes = {connection: process for process, connection in started}
    try:
        while processes:
            for connection in wait(list(processes)):
                assert isinstance(connection, Connection)
                _receive(connection, processes, on_step, on_result)
    finally:
        for process, _ in started:
            process.terminate()
            process.join()


def _receive(
    connection: Connection,
    processes: dict[Any, SpawnProcess],
    on_step: Step,
    on_result: Callable[[Any], None],
) -> None:
    """Act on one message of a process; remove the process from the list when it is done."""
    try:
        kind, value = connection.recv()
    except EOFError as error:
        process = processes[connection]
        process.join()
        raise DataError(
            f"a process that packs images ended with code {process.exitcode}; repeat the command "
            "to continue, with fewer --num-workers where memory may have run out"
        ) from error
    if kind == _STEP:
        on_step()
    elif kind == _RESULT:
        on_result(value)
    elif kind == _FAILED:
        raise value
    else:
        del processes[connection]


def _start(
    work: Callable[[Job, Step], Result], jobs: Sequence[Job]
) -> tuple[SpawnProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(work, jobs, theirs), daemon=True)
    process.start()
    # If it stayed open here too, the end of the process would not be the end of the pipe.
    theirs.close()
    return process, ours


def _serve(
    work: Callable[[Job, Step], Result], jobs: Sequence[Job], connection: Connection
) -> None:
    """Run in a process of its own."""
    end_with_parent()
    try:
        for job in jobs:
            connection.send((_RESULT, work(job, lambda: connection.send((_STEP, None)))))
        connection.send((_DONE, None))
    except BrokenPipeError:
        pass  # The program, which reads the pipe, has gone.
    except (BoTNetError, OSError) as error:
        connection.send((_FAILED, error))


def end_with_parent() -> None:
    """In a worker: end when the program ends, however it ends, even in the middle of a read."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_the_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C from processes started meanwhile: this process answers it, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The tracker starts with the first process, and would unblock the signal again.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
