"""The whole state of a training run on disk, through orbax."""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from bottleneck_transformer_flax.errors import CheckpointError

PyTree = Any


class TrainingCheckpoints:
    """The checkpoints of one run, by step; the newest ``keep`` of them stay.

    A checkpoint is the training state, a tree of arrays, and the run's progress, a JSON value. It
    appears under its name only when it is whole. Saving goes on in the background; leaving the
    context waits for it.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        """Open or create the directory."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._directory = directory.absolute()
        self._manager = ocp.CheckpointManager(self._directory, options=options)

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

    def restore(self, like: PyTree) -> tuple[PyTree, Any]:
        """The newest state, of the structure, shapes and dtypes of ``like``, and its progress.

        Raises:
            CheckpointError: when there is no checkpoint, or it is not of that structure.
        """
        step = self.latest_step()
        if step is None:
            raise CheckpointError(f"there is no checkpoint in {self._directory}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError, OSError) as error:
            # orbax explains over many lines; the first says what does not fit.
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(
                f"the checkpoint {self.path(step)} does not fit this run: {reason}"
            ) from error
        return restored.state, restored.progress
