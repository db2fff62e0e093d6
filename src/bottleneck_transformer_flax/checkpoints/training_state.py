"""The whole state of a training run on disk, through orbax."""

import glob
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from bottleneck_transformer_flax.errors import CheckpointError

PyTree = Any
_LONGEST_REASON = 150


class TrainingCheckpoints:
    """The checkpoints of one run, by step; the newest ``keep`` of them stay.

    A checkpoint is the training state, a tree of arrays, and the run's progress, a JSON value. It
    appears under its name only when it is whole. Saving goes on in the background; leaving the
    context waits for it.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        """Open or create the directory.

        Raises:
            CheckpointError: when it cannot be, a file being in its place or above it.
        """
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=False)
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
        self._manager.close()
        if self._link is not None:
            self._link.cleanup()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self._directory / str(step)

    def save(self, step: int, state: PyTree, progress: Any) -> None:
        """Save, unless this step is there already."""
        if step == self.latest_step():
            return
        # One at a time: orbax would wait too, and warn about it each time.
        self._manager.wait_until_finished()
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
            ),
        )

    def latest_progress(self) -> Any:
        """The progress that was saved with the newest state.

        Raises:
            CheckpointError: when there is no checkpoint, or it is damaged.
        """
        return self._restore(progress=ocp.args.JsonRestore()).progress

    def restore(self, like: PyTree) -> PyTree:
        """The newest state, of the structure, shapes and dtypes of ``like``.

        Raises:
            CheckpointError: when there is no checkpoint, it is damaged or not of that structure.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._restore(state=ocp.args.StandardRestore(abstract)).state

    def _restore(self, **items: ocp.args.CheckpointArgs) -> Any:
        step = self.latest_step()
        if step is None:
            raise CheckpointError(f"there is no checkpoint in {self._directory}")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            # orbax explains over many lines; the first says what does not fit.
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if len(reason) > _LONGEST_REASON:
                reason = f"{reason[:_LONGEST_REASON]}…"
            raise CheckpointError(
                f"the checkpoint {self.path(step)} is damaged or of another model ({reason}); "
                "remove that folder to go on from the checkpoint before it"
            ) from error
