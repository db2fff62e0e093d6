"""Worker processes, and jobs shared out over several of them."""

import contextlib
import logging
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from PIL import Image

from bottleneck_transformer_flax.config_checks import NUM_WORKERS
from bottleneck_transformer_flax.errors import BoTNetError, ConfigError, DataError

Job = TypeVar("Job")
Result = TypeVar("Result")
Step = Callable[[], None]
_log = logging.getLogger(__name__)
# Numbers of workers that a note has been logged about.
_reduced: set[int] = set()


def usable_cores() -> int:
    """The number of cores that this process may run on, which a scheduler may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_num_workers(num_workers: int | None) -> None:
    """Raise a ConfigError for a number of worker processes out of range."""
    if not NUM_WORKERS.holds(num_workers):
        raise ConfigError(f"num_workers is {num_workers}; expected {NUM_WORKERS.expected}")


def limited_num_workers(num_workers: int, num_jobs: int, job: str) -> int:
    """The number of workers asked for, but at most one for each core and each job.

    More would take memory, and only wait for each other.

    Args:
        num_workers: number asked for.
        num_jobs: number of jobs, each of which one worker does alone.
        job: what the note about fewer workers, which is logged once, calls a job.
    """
    most, what = min((usable_cores(), "core"), (num_jobs, job))
    if num_workers > most and num_workers not in _reduced:
        _reduced.add(num_workers)
        _log.warning("num_workers is %d, reduced to %d: one for each %s", num_workers, most, what)
    return min(num_workers, most)


class Worker:
    """A process that ends with this one, however this one ends, even in the middle of a read.

    Attributes:
        connection: this process's end of a pipe, which breaks when the worker has ended.
    """

    def __init__(self, serve: Callable[..., None], *arguments: object) -> None:
        """Start a process that calls ``serve`` with the other end of the pipe and the arguments."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (Image.MAX_IMAGE_PIXELS, serve, theirs, *arguments)
        self._process = context.Process(target=_serve_until_orphaned, args=arguments, daemon=True)
        with _signals_blocked():
            self._process.start()
        # At exit Python would send SIGTERM, which the worker blocks, and wait for ever.
        self._kill = multiprocessing.util.Finalize(self, self._process.kill, exitpriority=0)
        # While it is open here too, the end of the worker does not break the pipe.
        theirs.close()

    def wait(self) -> int | None:
        """Wait until the process ends by itself; return its exit code."""
        self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        """End the process, whatever it is doing, without waiting for it."""
        self._kill()

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._kill()
        self._process.join()
        self.connection.close()


def why_ended(exit_code: int | None) -> str:
    """What the exit code of a worker process says, and what helps."""
    said = f"exit code {exit_code}"
    if exit_code == -getattr(signal, "SIGKILL", 0):
        return f"{said}, as when memory has run out; choose fewer --num-workers"
    if exit_code == -getattr(signal, "SIGBUS", 0):
        return (
            f"{said}, as when shared memory has run out; choose fewer --num-workers, or give the "
            "container more (docker run --shm-size)"
        )
    if exit_code == 1:
        return (
            f"{said}; see its own message above. A Python program that starts processes must guard "
            'its __main__ (if __name__ == "__main__":), or start none with num_workers=0'
        )
    return said


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
            and results. A result is never None.
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
    with contextlib.ExitStack() as stack:
        workers = []
        for first in range(num_workers):
            workers.append(Worker(_do_jobs, work, jobs[first::num_workers]))
            stack.callback(workers[-1].end)
        for message in _messages(workers):
            if isinstance(message, Exception):
                raise message
            if message is None:
                on_step()
            else:
                on_result(message)


def _messages(workers: list[Worker]) -> Iterator[Any]:
    """What the workers send, as it comes, until all have ended.

    Raises:
        DataError: when one ends before its work is done.
    """
    running: dict[Any, Worker] = {worker.connection: worker for worker in workers}
    while running:
        for connection in wait(list(running)):
            try:
                message = running[connection].connection.recv()
            except EOFError as error:
                if exit_code := running.pop(connection).wait():
                    raise DataError(
                        f"a process that packs images ended with {why_ended(exit_code)}; repeat "
                        "the command to continue"
                    ) from error
            else:
                yield message


def _do_jobs(
    connection: Connection, work: Callable[[Job, Step], Result], jobs: Sequence[Job]
) -> None:
    """In a worker: send None after every step, the result of every job, or the first error."""
    try:
        for job in jobs:
            connection.send(work(job, lambda: connection.send(None)))
    except (BoTNetError, OSError) as error:
        connection.send(error)


def _serve_until_orphaned(
    max_pixels: int | None, serve: Callable[..., None], *arguments: object
) -> None:
    """In a worker: serve, but no longer than the program that started it runs.

    Images may have as many pixels as in that program.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    # The other end of the pipe is closed when the program needs no more.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(*arguments)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM in processes started meanwhile: this one handles them for all.

    A terminal sends Ctrl-C to every process, and so does SLURM its SIGTERM.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The tracker starts with the first process, and would unblock the signals again.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
