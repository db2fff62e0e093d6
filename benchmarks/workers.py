"""A process for each implementation, so that none disturbs another's memory and threads."""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.cases import Case
from benchmarks.implementations import (
    IMPLEMENTATIONS,
    PRODUCTS,
    FreedMemory,
)
from bottleneck_transformer_flax.cli.startup import keep_freed_memory
from bottleneck_transformer_flax.errors import BoTNetError

_SECONDS_TO_END = 5.0


class WorkerError(BoTNetError):
    """An implementation cannot do the work."""


class UnableError(WorkerError):
    """An implementation is not made for this work, as it says itself."""


class Report(NamedTuple):
    """What a worker says once its implementation is built."""

    outputs: tuple[np.ndarray, ...]
    compile_seconds: float
    temporaries_bytes: int | None


class Worker:
    """One implementation in a process of its own, which works only while it is asked to."""

    def __init__(self, name: str, case: Case, folder: Path, freed_memory: FreedMemory) -> None:
        """Start building it.

        Args:
            name: of the implementation.
            case: what to do.
            folder: with the weights and inputs.
            freed_memory: who keeps it.
        """
        self.name = name
        self._log = _log_of(name, folder)
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        arguments = (theirs, name, case, folder, freed_memory)
        self._process = spawn.Process(target=_serve, args=arguments, daemon=True)
        with interrupts_ignored():
            self._process.start()
        theirs.close()

    def report(self) -> Report:
        """Wait until it is built.

        Raises:
            WorkerError: when it cannot be.
        """
        report: Report = self._answer()
        return report

    def time(self, calls: int) -> list[float]:
        """Seconds that each of so many calls took."""
        seconds: list[float] = self._answer(calls)
        return seconds

    def peak_memory_bytes(self) -> int | None:
        """The most that the process has had in memory since it was built; None if unknown."""
        peak: int | None = self._answer("memory")
        return peak

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._connection.send("end")
        self._process.join(_SECONDS_TO_END)
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _answer(self, question: int | str | None = None) -> Any:
        try:
            if question is not None:
                self._connection.send(question)
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerError(
                f"{self.name}: its process ended with exit code {self._process.exitcode}"
                + self._last_words()
            ) from None
        if isinstance(answer, UnableError):
            raise answer
        if isinstance(answer, str):
            raise WorkerError(f"{self.name}: {answer}")
        return answer

    def _last_words(self) -> str:
        """The last line that its process printed, for which nobody else listened."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        return f"; it last said: {said[-1]}" if said else ""


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ctrl-C reaches every process of the terminal, of which this one ends the others.

    They inherit it, so that none of them ends on its own with a traceback while it begins.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _log_of(name: str, folder: Path) -> Path:
    return folder / f"{name}.log"


def _serve(
    connection: Connection, name: str, case: Case, folder: Path, freed_memory: FreedMemory
) -> None:
    """The process: build, then do what is asked."""
    implementation = (IMPLEMENTATIONS | PRODUCTS)[name]
    if implementation.keeps(freed_memory):
        keep_freed_memory()
    # What it takes to compile is measured, so nothing that an earlier process compiled is used.
    jax.config.update("jax_enable_compilation_cache", False)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / f"{name}-compiled")
    log = _log_of(name, folder).open("w")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
        built = implementation.build(case, folder)
        _forget_peak()
        connection.send(Report(built.outputs, built.compile_seconds, built.temporaries_bytes))
        while True:
            asked = connection.recv()
            if asked == "end":
                return
            if asked == "memory":
                connection.send(_peak_memory_bytes())
                continue
            seconds = []
            for _ in range(asked):
                start = time.perf_counter()
                built.call()
                seconds.append(time.perf_counter() - start)
            connection.send(seconds)
    except EOFError:
        return
    except BoTNetError as error:
        connection.send(UnableError(f"{name}: {error}"))
    except BaseException as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])


def _forget_peak() -> None:
    """From here on the peak counts anew, from what building has left; on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_bytes() -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(kilobytes[0]) * 1024 if kilobytes else None
