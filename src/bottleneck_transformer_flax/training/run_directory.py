"""A run on disk: which file is where, and how the run was defined."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.files import locked, write_text
from bottleneck_transformer_flax.training.config import RunConfig

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
_FORMER_KEYS = {
    "test_loss": "validation_loss",
    "test_accuracy": "validation_accuracy",
    "test_top5": "validation_top5",
    "fraction_of_peak": "mfu",
}


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    Attributes:
        path: the folder that holds them.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The train state by step."""
        return self.path / "checkpoints"

    @property
    def pretrained(self) -> Path:
        """The model for inference, after the last step."""
        return self.path / "pretrained"

    @property
    def best(self) -> Path:
        """The model for inference, after the epoch with the best validation accuracy."""
        return self.path / "best"

    @property
    def tensorboard(self) -> Path:
        """Events for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        """One JSON line per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """The final evaluation as JSON."""
        return self.path / "evaluation.json"

    @property
    def predictions(self) -> Path:
        """The predictions that the final evaluation was computed from."""
        return self.path / "predictions.npz"

    @property
    def curves(self) -> Path:
        """A picture of the metrics by epoch."""
        return self.path / "curves.png"

    @property
    def confusion(self) -> Path:
        """A picture of the confusion matrix."""
        return self.path / "confusion.png"

    @property
    def example(self) -> Path:
        """One image that the model was scored on, to try a prediction with."""
        return self.path / "example.png"

    def require_new(self) -> None:
        """Check that a run can begin here.

        Raises:
            CheckpointError: when the folder holds a run, or anything else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path} is a file; name a new folder as --run-directory")
        if self.path.exists() and any(self.path.iterdir()):
            raise CheckpointError(
                f"{self.path} is not empty; name another --run-directory, or resume the run in it "
                "with --resume"
            )

    def create(self, config: RunConfig) -> None:
        """Make the folder and write down how the run is defined.

        Raises:
            CheckpointError: as ``require_new``.
        """
        self.require_new()
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_config(config)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """A context in which no other process can train here.

        Entering it raises CheckpointError when another process does.
        """
        refusal = f"another process is training in {self.path}; wait for it, or end it first"
        return locked(self.path / LOCK_FILE, CheckpointError(refusal))

    def write_config(self, config: RunConfig) -> None:
        """Write down how the run is defined."""
        write_text(self.path / RUN_FILE, json.dumps(config.to_json(), indent=2) + "\n")

    def read_config(self) -> RunConfig:
        """How the run is defined.

        Raises:
            CheckpointError: when this is no run, or its record is damaged.
        """
        file = self.path / RUN_FILE
        if not file.is_file():
            raise CheckpointError(f"{self.path} is not a run: it has no {RUN_FILE}")
        try:
            return RunConfig.from_json(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, ConfigError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error

    def write_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write one row for every epoch so far."""
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The row of every epoch so far, with today's keys whatever commit wrote it.

        Raises:
            CheckpointError: when the file is damaged.
        """
        if not self.metrics.is_file():
            return []
        try:
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
        except ValueError as error:
            raise CheckpointError(f"{self.metrics} cannot be read: {error}") from error
        if not all(isinstance(row, dict) and {"epoch", "step"} <= row.keys() for row in rows):
            raise CheckpointError(f"{self.metrics} cannot be read: expected an epoch in every line")
        return [{_FORMER_KEYS.get(key, key): row[key] for key in row} for row in rows]


def newest_run(runs: Path, *, having: str, lacking: str | None = None) -> RunDirectory | None:
    """The run whose entry named ``having`` is newest, among those without ``lacking``."""
    found = [
        (path.stat().st_mtime, path.parent)
        for path in runs.glob(f"*/{having}")
        if (path.parent / RUN_FILE).is_file()
        and not (lacking is not None and (path.parent / lacking).exists())
    ]
    return RunDirectory(max(found)[1]) if found else None
