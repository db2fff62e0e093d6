"""The model of the epoch with the best test accuracy, kept beside the last."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from bottleneck_transformer_flax.checkpoints.pretrained import save_pretrained
from bottleneck_transformer_flax.models.surgery import Variables
from bottleneck_transformer_flax.training.plan import Plan
from bottleneck_transformer_flax.training.results import model_card
from bottleneck_transformer_flax.training.run import RunDirectory


class BestModel:
    """Writes a pretrained directory in the background; the newest to be kept is the one there."""

    def __init__(self, plan: Plan, run: RunDirectory) -> None:
        """For a run."""
        self._plan, self._run = plan, run
        self._thread = ThreadPoolExecutor(1, "best model")
        self._writing: Future[None] | None = None

    def keep(self, variables: Variables, row: dict[str, Any], *, count: int) -> None:
        """Write these variables in the place of those before; waits for their copy alone.

        Args:
            variables: of the model.
            row: of the epoch, as in ``metrics.jsonl``.
            count: test images.

        Raises:
            OSError: when those before could not be written.
        """
        self.wait()
        on_host = jax.tree.map(np.asarray, variables)
        evaluation = {
            "top1": row["test_accuracy"],
            "top5": row["test_top5"],
            "loss": row["test_loss"],
            "count": count,
        }
        self._writing = self._thread.submit(self._write, on_host, evaluation, row["epoch"])

    def wait(self) -> None:
        """Until all is written.

        Raises:
            OSError: when it could not be.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, variables: Variables, evaluation: dict[str, Any], epoch: int) -> None:
        plan = self._plan
        card = model_card(plan, evaluation, epoch=epoch)
        classes = plan.splits.train.class_names
        save_pretrained(
            self._run.best, plan.model, variables, plan.preprocessing, classes, card=card
        )
