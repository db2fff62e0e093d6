"""The model of the epoch with the best test accuracy, kept beside the last."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from bottleneck_transformer_flax.checkpoints.pretrained import save_pretrained
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.models.surgery import Variables
from bottleneck_transformer_flax.training.results import model_card
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Plan


class BestModel:
    """Writes a pretrained directory in the background; the newest to be kept is the one there."""

    def __init__(self, plan: Plan, run: RunDirectory) -> None:
        """For a run."""
        self._plan, self._run = plan, run
        self._thread = ThreadPoolExecutor(1, "best model")
        self._writing: list[Future[None]] = []

    def keep(self, variables: Variables, row: dict[str, Any], *, count: int) -> None:
        """Write these variables in the place of those before; waits for their copy alone.

        Args:
            variables: of the model.
            row: of the epoch, as in ``metrics.jsonl``.
            count: test images.

        Raises:
            CheckpointError: when those before could not be written.
        """
        on_host = jax.tree.map(np.asarray, variables)
        evaluation = {
            "top1": row["test_accuracy"],
            "top5": row["test_top5"],
            "loss": row["test_loss"],
            "count": count,
        }
        self._finish(writing for writing in self._writing if writing.done())
        # One that is not begun yet is no longer the best.
        self._writing = [one for one in self._writing if not (one.done() or one.cancel())]
        self._writing.append(self._thread.submit(self._write, on_host, evaluation, row["epoch"]))

    def close(self) -> None:
        """Wait until all is written, and end the thread.

        Raises:
            CheckpointError: when it could not be written.
        """
        try:
            self._finish(self._writing)
        finally:
            self._thread.shutdown()

    def _finish(self, writings: Iterable[Future[None]]) -> None:
        try:
            for writing in writings:
                writing.result()
        except OSError as error:
            raise CheckpointError(
                f"the best model could not be written to {self._run.best}: "
                f"{error.strerror or error}; the checkpoints are whole. See to the disk, then go "
                "on with --resume"
            ) from error

    def _write(self, variables: Variables, evaluation: dict[str, Any], epoch: int) -> None:
        plan = self._plan
        card = model_card(plan, evaluation, epoch=epoch)
        classes = plan.splits.train.class_names
        save_pretrained(
            self._run.best, plan.model, variables, plan.preprocessing, classes, card=card
        )
