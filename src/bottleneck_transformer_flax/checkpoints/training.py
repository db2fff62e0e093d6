"""Train states on disk, written by orbax, with digests that reveal a damaged checkpoint."""

import contextlib
import copy
import glob
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from bottleneck_transformer_flax.distributed import broadcast_from_primary, is_primary_process
from bottleneck_transformer_flax.errors import CheckpointError, reason

PyTree = Any
DIGESTS_FILE = "digests.json"
_DAMAGED = ".damaged"
_LONGEST_REASON = 150
_log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """A restored checkpoint.

    Attributes:
        step: training step that the checkpoint was saved after.
        state: train state, of the structure asked for.
        progress: JSON value saved with the state.
    """

    step: int
    state: PyTree
    progress: Any


class TrainingCheckpoints:
    """Checkpoints of one run, by step; only the newest ``keep`` stay.

    A checkpoint is a train state (a tree of arrays) and the run's progress (a JSON value). It gets
    its final name only when it is complete, SHA-256 digests of its files included. It is written
    in the background; leaving the context waits for that. Where several processes train, all of
    them call ``save`` and ``restore`` together.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        """Open or create the directory.

        Raises:
            CheckpointError: when there is a file where the directory, or one above it, should be.
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
        self._manager = ocp.CheckpointManager(self._without_wildcards(), options=options)

    def _without_wildcards(self) -> Path:
        """The directory, through a link if orbax would read its name as a glob pattern."""
        if str(self._directory) == glob.escape(str(self._directory)):
            return self._directory
        self._link = tempfile.TemporaryDirectory(prefix="botnet-checkpoints-")
        link = Path(self._link.name) / "checkpoints"
        link.symlink_to(self._directory, target_is_directory=True)
        return link

    def __enter__(self) -> "TrainingCheckpoints":
        """Return the checkpoints themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until everything saved is on disk."""
        try:
            with self._write_errors_explained():
                self._manager.close()
        finally:
            if self._link is not None:
                self._link.cleanup()

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint."""
        return self._directory / str(step)

    def save(self, step: int, state: PyTree, progress: Any, *, wait: bool = True) -> None:
        """Save a step unless it is saved already; returns as soon as everything is copied.

        Args:
            step: training step.
            state: tree of arrays, which may be donated once this returns.
            progress: JSON value, which may be changed once this returns.
            wait: whether to wait while an earlier checkpoint is still being written; if not, this
                one is left out, so that training never stands still for a slow disk.

        Raises:
            CheckpointError: when this save or the one before it failed, as on a full disk. Earlier
                checkpoints are intact.
        """
        if step == self.latest_step():
            return
        if not wait and broadcast_from_primary(int(self._manager.is_saving_in_progress())):
            _log.info("step %d is not saved: the last checkpoint is still being written", step)
            return
        with self._write_errors_explained():
            # orbax would wait too, and warn about it each time.
            self._manager.wait_until_finished()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    # orbax copies the state, but keeps the progress itself until it is written.
                    progress=ocp.args.JsonSave(copy.deepcopy(progress)),
                ),
            )

    def restore(
        self, like: PyTree, accept: Callable[[Any], None] = lambda progress: None
    ) -> Saved | None:
        """Restore the newest intact checkpoint; None if there is none at all.

        Damaged ones are set aside with a warning, and never restored.

        Args:
            like: state of the structure, shapes, dtypes and shardings to return.
            accept: called with the progress before the state is read; raises if the checkpoint
                does not belong to this run.

        Raises:
            CheckpointError: when every checkpoint is damaged, or the newest intact one has another
                structure.
        """
        damaged = self._set_damaged_aside() if is_primary_process() else 0
        if broadcast_from_primary(damaged):
            self._manager.reload()
        step = self.latest_step()
        if step is None:
            if any(self._directory.glob(f"*{_DAMAGED}*")):
                raise CheckpointError(
                    f"every checkpoint in {self._directory} is damaged; restore one from a copy, "
                    "or start a new run"
                )
            return None
        progress = self._read(step, progress=ocp.args.JsonRestore()).progress
        accept(progress)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state = self._read(step, state=ocp.args.StandardRestore(abstract)).state
        return Saved(step, state, progress)

    def _read(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        """Read parts of a checkpoint by their names."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            earlier = "remove that folder to resume from an earlier one, or "
            raise CheckpointError(
                f"the checkpoint {self.path(step)} is damaged, or was written for another model, "
                f"optimizer or version ({_shortened(error)}); "
                f"{earlier if min(self._manager.all_steps()) < step else ''}start a new run"
            ) from error

    def _set_damaged_aside(self) -> int:
        """Rename damaged checkpoints, newest first, down to an intact one; return their number."""
        damaged = 0
        for step in sorted(self._manager.all_steps(), reverse=True):
            damage = find_damage(self.path(step))
            if damage is None:
                break
            damaged += 1
            base = f"{step}{_DAMAGED}"
            names = chain([base], (f"{base}-{number}" for number in count(2)))
            aside = next(path for name in names if not (path := self._directory / name).exists())
            self.path(step).rename(aside)
            _log.warning(
                "the checkpoint %s is damaged (%s); it is now %s",
                self.path(step),
                damage,
                aside.name,
            )
        return damaged

    def _write_digests(self) -> None:
        """Called when all files of a checkpoint are written, before it gets its final name."""
        if is_primary_process():
            for folder in self._directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                write_digests(folder)

    @contextlib.contextmanager
    def _write_errors_explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            # With several processes, one that died is the likelier reason, and is told elsewhere.
            if jax.process_count() > 1 and not isinstance(error, OSError):
                raise
            last = self.latest_step()
            intact = "there is no earlier one" if last is None else f"{self.path(last)} is intact"
            raise CheckpointError(
                f"the checkpoint could not be written to {self._directory}: {_shortened(error)}; "
                f"{intact}. Check the disk, then continue with --resume"
            ) from error


def write_digests(folder: Path) -> None:
    """Record the SHA-256 of every file in the subfolders of a checkpoint.

    Files beside the subfolders are orbax's own: it changes them later, and restores without them.
    """
    digests = {name: _digest(folder / name) for name in _files(folder)}
    (folder / DIGESTS_FILE).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """Describe the first difference between a checkpoint and its digests; None if there is none."""
    record = folder / DIGESTS_FILE
    if not record.exists():
        return f"{DIGESTS_FILE} is missing"
    try:
        expected = json.loads(record.read_text(encoding="utf-8"))
        if missing := set(expected) - set(_files(folder)):
            return f"{min(missing)} is missing"
        for name, digest in expected.items():
            if _digest(folder / name) != digest:
                return f"{name} has changed since it was written"
    except (ValueError, AttributeError, OSError) as error:
        return f"{DIGESTS_FILE} or a file that it lists cannot be read: {error}"
    return None


def _files(folder: Path) -> list[str]:
    files = (path for path in folder.glob("*/**/*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shortened(error: Exception) -> str:
    """Give the reason of an error, without its middle if it is as long as orbax's are."""
    text = reason(error)
    half = _LONGEST_REASON // 2
    return text if len(text) <= 2 * half else f"{text[:half]} … {text[-half:]}"
