"""A run on disk: which file is where, and how the run was defined."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.files import locked, write_text
from bottleneck_transformer_flax.own_output import RUN_FILE
from bottleneck_transformer_flax.training.config import RunConfig

_IMAGES = "images"
_PLANNED = "planned"
LOCK_FILE = ".lock"
_FORMER_KEYS = {
    "test_loss": "validation_loss",
    "test_accuracy": "validation_accuracy",
    "test_top5": "validation_top5",
    "fraction_of_peak": "mfu",
}


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """Which images a run uses, and where they were when this was written.

    Attributes:
        digests: digest of the images of each split; empty where an earlier version wrote none.
        path: absolute path of the data; None for a data set that has a name.
        path_from_run: the same, relative to the folder of the run.
    """

    digests: dict[str, str] = field(default_factory=dict)
    path: str | None = None
    path_from_run: str | None = None


class RunDirectory:
    """The files of one run.

    Attributes:
        path: folder that holds them.
        checkpoints: train state by step.
        pretrained: model for inference, after the last step.
        best: model for inference, after the epoch with the best validation accuracy; of several,
            the one with the lowest loss.
        metrics: one JSON line per epoch.
        evaluation: final evaluation as JSON.
        predictions: predictions that the final evaluation was computed from.
        curves: picture of the metrics by epoch.
        confusion: picture of the confusion matrix.
        reliability: picture of the accuracy by confidence.
        example: one image that the model was scored on, to try a prediction with.
        tensorboard: events for TensorBoard.
    """

    def __init__(self, path: Path) -> None:
        """The run in a folder, which need not exist yet."""
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.pretrained, self.best = path / "pretrained", path / "best"
        self.metrics = path / "metrics.jsonl"
        self.evaluation, self.predictions = path / "evaluation.json", path / "predictions.npz"
        self.curves, self.confusion = path / "curves.png", path / "confusion.png"
        self.reliability = path / "reliability.png"
        self.example = path / "example.png"
        self.tensorboard = path / "tensorboard"

    def require_new(self) -> None:
        """Check that a run can begin here.

        Raises:
            CheckpointError: when the folder holds a run, or anything else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"{self.path} is a file; name a new folder as --run-directory")
        if self.path.exists() and any(self.path.iterdir()):
            is_run = (self.path / RUN_FILE).is_file()
            resume = ", or resume the run in it with --resume" if is_run else ""
            raise CheckpointError(f"{self.path} is not empty; name another --run-directory{resume}")

    def create(self, config: RunConfig, images: ImageRecord = ImageRecord()) -> None:
        """Make the folder and write down how the run is defined.

        Raises:
            CheckpointError: as ``require_new``.
        """
        self.require_new()
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_config(config, images)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """A context in which no other process can train here.

        Entering it raises CheckpointError when another process does.
        """
        refusal = f"another process is training in {self.path}; wait for it, or end it first"
        return locked(self.path / LOCK_FILE, CheckpointError(refusal))

    def write_config(
        self,
        config: RunConfig,
        images: ImageRecord = ImageRecord(),
        planned: Sequence[dict[str, int]] = (),
    ) -> None:
        """Write down how the run is defined, and on which images.

        Args:
            config: options of the run.
            images: the images that it uses.
            planned: as in ``Progress``; written where the number of epochs has changed.
        """
        record = config.to_json() | {_IMAGES: asdict(images)}
        if len(planned) > 1:
            record[_PLANNED] = list(planned)
        write_text(self.path / RUN_FILE, json.dumps(record, indent=2) + "\n")

    def read_config(self) -> RunConfig:
        """How the run is defined.

        Raises:
            CheckpointError: when this is no run, or its record is damaged.
        """
        return self._read()[0]

    def read_images(self) -> ImageRecord:
        """Which images the run uses; raises as ``read_config``."""
        return self._read()[1]

    def _read(self) -> tuple[RunConfig, ImageRecord]:
        file = self.path / RUN_FILE
        if not file.is_file():
            raise CheckpointError(f"{self.path} is not a run: it has no {RUN_FILE}")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            images = ImageRecord(**values.pop(_IMAGES, {}))
            values.pop(_PLANNED, None)
            return RunConfig.from_json(values), images
        except (ValueError, TypeError, AttributeError) as error:
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


def newest_run(runs: Path, *, having: str, unfinished: bool = False) -> RunDirectory | None:
    """The run whose entry named ``having`` is newest, among all or among the unfinished ones.

    A finished run's final model is written after everything else. One that goes on to more epochs
    keeps that model until its new end, but has a newer record.
    """
    found = [
        (path.stat().st_mtime, path.parent)
        for path in runs.glob(f"*/{having}")
        if (path.parent / RUN_FILE).is_file()
        and not (unfinished and _is_finished(RunDirectory(path.parent)))
    ]
    return RunDirectory(max(found)[1]) if found else None


def _is_finished(run: RunDirectory) -> bool:
    model, record = run.pretrained, run.path / RUN_FILE
    return model.exists() and model.stat().st_mtime >= record.stat().st_mtime
