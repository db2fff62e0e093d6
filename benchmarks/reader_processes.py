"""A process group for each reader, which stands still while another is measured."""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.readers import READERS, InputCase, ReaderName
from benchmarks.workers import WorkerError, interrupts_ignored
from bottleneck_transformer_flax.cli.startup import keep_freed_memory

_SECONDS_TO_END = 10.0


class Begun(NamedTuple):
    """What a reader says once its first batch is there."""

    examples: np.ndarray
    seconds: float


class ReaderProcess:
    """One reader in a process of its own, which works only in its turns.

    Readers read ahead: what one had ready from a pause would count as fast, and what it got ready
    meanwhile would make the others slow. So it is stopped in between, with all its processes.
    """

    def __init__(self, name: ReaderName, case: InputCase, log: Path) -> None:
        """Start it.

        Args:
            name: of the reader.
            case: what to read.
            log: the file for what its processes print.
        """
        self.name = name
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        # A daemon may have no processes of its own.
        self._process = spawn.Process(target=_serve, args=(theirs, name, case, log), daemon=False)
        with interrupts_ignored():
            self._process.start()
        theirs.close()

    def begun(self) -> Begun:
        """Wait for its first batch, then stop it.

        Raises:
            WorkerError: when it cannot read.
        """
        begun: Begun = self._answer()
        self._signal("SIGSTOP")
        return begun

    def take(self, batches: int) -> float:
        """Seconds until so many batches were there.

        Raises:
            WorkerError: when it cannot go on.
        """
        self._signal("SIGCONT")
        try:
            self._connection.send(batches)
            seconds: float = self._answer()
        finally:
            self._signal("SIGSTOP")
        return seconds

    def close(self) -> None:
        """End all its processes."""
        self._signal("SIGCONT")
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(_SECONDS_TO_END)
        self._signal("SIGKILL")
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerError(
                f"{self.name}: its process ended with exit code {self._process.exitcode}"
            ) from None
        if isinstance(answer, str):
            raise WorkerError(f"{self.name}: {answer}")
        return answer

    def _signal(self, name: str) -> None:
        """To all processes of the group, where the system has such."""
        if hasattr(os, "killpg") and self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, getattr(signal, name))


def _serve(connection: Connection, name: ReaderName, case: InputCase, log: Path) -> None:
    """The process: begin, then take what is asked for."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    # As this library's commands have it; it makes no difference to the other readers.
    keep_freed_memory()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        start = time.perf_counter()
        reader = READERS[name].build(case)
        with contextlib.closing(reader):
            reader.take(1)
            connection.send(Begun(reader.examples, time.perf_counter() - start))
            while (batches := connection.recv()) is not None:
                start = time.perf_counter()
                reader.take(batches)
                connection.send(time.perf_counter() - start)
    except EOFError:
        return
    except BaseException as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
