"""The whole state of a training run on disk, through orbax."""

import contextlib
import glob
import logging
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from bottleneck_transformer_flax.checkpoints.digests import find_damage, write_digests
from bottleneck_transformer_flax.distributed import broadcast_from_primary
from bottleneck_transformer_flax.errors import CheckpointError

PyTree = Any
_LONGEST_REASON = 150
_DAMAGED = ".damaged"
_log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        step: of the training.
        state: of the structure that was asked for.
        progress: the JSON value that was saved with it.
    """

    step: int
    state: PyTree
    progress: Any


class TrainingCheckpoints:
    """The checkpoints of one run, by step; the newest ``keep`` of them stay.

    A checkpoint is the training state, a tree of arrays, and the run's progress, a JSON value. It
    appears under its name only when it is whole, with the digests of its files. Saving goes on in
    the background; leaving the context waits for it. Where several processes train, all of them
    save and restore together.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        """Open or create the directory.

        Raises:
            CheckpointError: when it cannot be, a file being in its place or above it.
        """
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=False,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
        )
        self._directory = directory.absolute()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise CheckpointError(
                f"{directory} cannot be a folder of checkpoints, there is a file in its place"
            ) from error
        self._link: tempfile.TemporaryDirectory[str] | None = None
        self._manager = ocp.CheckpointManager(self._plainly_named(), options=options)

    def _plainly_named(self) -> Path:
        """The directory, under another name where orbax would take its name for a pattern."""
        if str(self._directory) == glob.escape(str(self._directory)):
            return self._directory
        self._link = tempfile.TemporaryDirectory(prefix="botnet-checkpoints-")
        link = Path(self._link.name) / "checkpoints"
        link.symlink_to(self._directory, target_is_directory=True)
        return link

    def __enter__(self) -> "TrainingCheckpoints":
        """The checkpoints themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until all that was saved is on disk."""
        try:
            with self._failures_named():
                self._manager.close()
        finally:
            if self._link is not None:
                self._link.cleanup()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self._directory / str(step)

    def save(self, step: int, state: PyTree, progress: Any, *, wait: bool = True) -> None:
        """Save, unless this step is there already; returns when the state is copied.

        Args:
            step: of the training.
            state: a tree of arrays; they may be used up once this returns.
            progress: a JSON value.
            wait: whether to wait while the checkpoint before it is still being written; this one
                is left out otherwise, so that nothing stands still for a slow disk.

        Raises:
            CheckpointError: when this or the save before it failed, such as on a full disk. What
                was saved before is whole.
        """
        if step == self.latest_step():
            return
        if not wait and broadcast_from_primary(int(self._manager.is_saving_in_progress())):
            _log.info("step %d is not saved: the checkpoint before it is being written", step)
            return
        with self._failures_named():
            # One at a time: orbax would wait too, and warn about it each time.
            self._manager.wait_until_finished()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
                ),
            )

    def restore(
        self, like: PyTree, accept: Callable[[Any], None] = lambda progress: None
    ) -> Saved | None:
        """The newest checkpoint that is whole, None where there is none.

        One that is damaged is set aside, with a warning, and the one before it taken.

        Args:
            like: a state of the structure, shapes, dtypes and places of the one to return.
            accept: is shown the progress first, and raises where the state is not for this run.

        Raises:
            CheckpointError: when there are only damaged ones, or it is not of that structure.
        """
        damaged = self._set_damaged_aside() if jax.process_index() == 0 else []
        if broadcast_from_primary(len(damaged)):
            self._manager.reload()
        step = self.latest_step()
        if step is None:
            if damaged:
                raise CheckpointError(
                    f"every checkpoint in {self._directory} is damaged, the newest: {damaged[0]}; "
                    "bring one back, or begin anew"
                )
            return None
        progress = self._read(step, progress=ocp.args.JsonRestore()).progress
        accept(progress)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state = self._read(step, state=ocp.args.StandardRestore(abstract)).state
        return Saved(step, state, progress)

    def _read(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        """Parts of a checkpoint, by their names."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            raise CheckpointError(
                f"the checkpoint {self.path(step)} is damaged or of another model "
                f"({_in_short(error)}); remove that folder to go on from the checkpoint before it"
            ) from error

    def _set_damaged_aside(self) -> list[str]:
        """What is wrong with the newest checkpoints until one is whole, newest first."""
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            damage = find_damage(self.path(step))
            if damage is None:
                break
            damaged.append(damage)
            aside = self._free_path(f"{step}{_DAMAGED}")
            self.path(step).rename(aside)
            _log.warning("the checkpoint %s is damaged (%s) and set aside", aside, damage)
        return damaged

    def _free_path(self, name: str) -> Path:
        """Where nothing is yet: the name, or with a number where a step was damaged before."""
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        return next(path for name in names if not (path := self._directory / name).exists())

    def _write_digests(self) -> None:
        """Before a checkpoint gets its name, whose files are all written."""
        if jax.process_index() == 0:
            for folder in self._directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                write_digests(folder)

    @contextlib.contextmanager
    def _failures_named(self) -> Iterator[None]:
        """What goes wrong in writing, as one line."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            # Of several processes one that has gone is the likelier reason, and told as that.
            if jax.process_count() > 1 and not isinstance(error, OSError):
                raise
            before = self.latest_step()
            good = "none was written before" if before is None else f"{self.path(before)} is whole"
            raise CheckpointError(
                f"the checkpoint could not be written to {self._directory}: {_in_short(error)}; "
                f"{good}. See to the disk, then go on with --resume"
            ) from error


def _in_short(error: Exception) -> str:
    """The first line of an error, which orbax explains over many; of a long one, both its ends."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if len(reason) <= _LONGEST_REASON:
        return reason
    half = _LONGEST_REASON // 2
    return f"{reason[:half]} … {reason[-half:]}"
