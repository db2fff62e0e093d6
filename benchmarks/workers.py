"""A process for each implementation, which stands still while another is measured."""

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

from benchmarks.implementations import Built, Implementation
from bottleneck_transformer_flax.cli.startup import keep_freed_memory
from bottleneck_transformer_flax.errors import BoTNetError

_SECONDS_TO_END = 10.0


class WorkerError(BoTNetError):
    """An implementation cannot do the work."""


class UnableError(WorkerError):
    """An implementation is not made for this work, as it says itself."""


class Report(NamedTuple):
    """What a worker tells about the implementation that it has built; see ``Built``."""

    outputs: tuple[np.ndarray, ...]
    compile_seconds: float
    temporaries_bytes: int | None
    note: str = ""


class Worker:
    """One implementation in a process of its own, which runs only while it is asked something.

    Between two questions the process and all that it has started are stopped: a reader gets nothing
    ready meanwhile, and threads that spin take no time from the others.
    """

    def __init__(self, name: str, implementation: Implementation, *, keep_memory: bool) -> None:
        """Start the process, which waits for ``build``.

        Args:
            name: name of the implementation.
            implementation: what it builds.
            keep_memory: whether it keeps freed memory.
        """
        self.name = name
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        arguments = (theirs, implementation, keep_memory)
        # A daemon may have no processes of its own, as readers do.
        self._process = spawn.Process(target=_serve, args=arguments, daemon=False)
        with _interrupts_ignored():
            self._process.start()
        theirs.close()

    def build(self, case: Any, folder: Path) -> Report:
        """Build the implementation for a case, whose weights and inputs are in a folder.

        Raises:
            UnableError: when it is not made for this case.
            WorkerError: when it cannot be built.
        """
        report: Report = self._ask(("build", (case, folder, folder / f"{self.name}.log")))
        return report

    def time(self, calls: int) -> float:
        """Mean seconds per call, over ``calls`` calls."""
        seconds: float = self._ask(("time", calls))
        return seconds / calls

    def memory_bytes(self) -> int | None:
        """Memory that the implementation has needed since it was built."""
        count: int | None = self._ask(("memory", None))
        return count

    def close(self) -> None:
        """End the process and all that it has started."""
        self._signal("SIGCONT")
        with contextlib.suppress(OSError):
            self._connection.send(("end", None))
        self._process.join(_SECONDS_TO_END)
        self._signal("SIGKILL")
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _ask(self, question: tuple[str, Any]) -> Any:
        self._signal("SIGCONT")
        try:
            self._connection.send(question)
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            raise WorkerError(f"{self.name}: its process ended with exit code {code}") from None
        self._signal("SIGSTOP")
        if isinstance(answer, WorkerError):
            raise type(answer)(f"{self.name}: {answer}")
        return answer

    def _signal(self, name: str) -> None:
        """Send a signal to the process's group, where the system has groups."""
        if hasattr(os, "killpg") and self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, getattr(signal, name))


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Children inherit it, so that Ctrl-C reaches this process alone, which ends the others."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, implementation: Implementation, keep_memory: bool) -> None:
    """Build the implementation, then answer questions, in the process of its own."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if keep_memory:
        keep_freed_memory()
    # Compiling is measured, so nothing that an earlier process compiled is used.
    jax.config.update("jax_enable_compilation_cache", False)
    built: Built | None = None
    with contextlib.suppress(EOFError), contextlib.ExitStack() as stack:
        while True:
            kind, argument = connection.recv()
            if kind == "end":
                return
            try:
                if kind == "build":
                    stack.close()
                    # Frees what was built before.
                    built = None
                    built = _build(implementation, *argument)
                    stack.callback(built.close)
                    connection.send(
                        Report(
                            built.outputs,
                            built.compile_seconds,
                            built.temporaries_bytes,
                            built.note,
                        )
                    )
                elif built is None:
                    raise WorkerError("it is not built")
                elif kind == "memory":
                    connection.send(built.memory_bytes())
                else:
                    start = time.perf_counter()
                    built.run(argument)
                    connection.send(time.perf_counter() - start)
            except BaseException as error:
                connection.send(_told(error))


def _build(implementation: Implementation, case: Any, folder: Path, log: Path) -> Built:
    """Build with everything that is printed going to a file, and the peak of memory reset."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(log.with_suffix(".compiled"))
    built = implementation.build(case, folder)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return built


def _told(error: BaseException) -> WorkerError:
    """Convert an error to one with a message of one line, which can be sent between processes."""
    traceback.print_exc()
    if isinstance(error, BoTNetError):
        return UnableError(str(error))
    return WorkerError(f"{type(error).__name__}: {error}".splitlines()[0][:300])
