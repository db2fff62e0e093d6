"""The metrics of a run as event files, which TensorBoard shows as curves."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bottleneck_transformer_flax.errors import TrainingError, require_extra
from bottleneck_transformer_flax.training.callbacks import Callback
from bottleneck_transformer_flax.training.metrics import EpochMetrics, Progress, StepInfo
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Setup

MOST_STEPS_PER_EPOCH = 100


class TensorBoard(Callback):
    """Writes RUN/tensorboard/: ``step/…`` for at most a hundred steps per epoch, and ``epoch/…``.

    The x axis is the step of the run. ``step/mean_loss`` and ``step/mean_accuracy`` are means over
    the epoch so far; ``epoch/…`` are the numbers of ``metrics.jsonl`` under their names. A resumed
    run begins another file, which tells TensorBoard to drop what the earlier files hold of the
    steps that are taken again.
    """

    shows_mfu = True

    def __init__(self) -> None:
        """Check that the library is there; nothing is written before the run starts.

        Raises:
            TrainingError: when tensorboardX is not installed.
        """
        require_extra("log", ["tensorboardX"], "the log for TensorBoard", TrainingError)
        self._events: Any = None
        self._steps_between = 1

    def on_start(self, setup: Setup, run: RunDirectory, progress: Progress) -> None:
        """Begin a file."""
        self._steps_between = math.ceil(setup.steps_per_epoch / MOST_STEPS_PER_EPOCH)
        self._events = _begin_file(run.tensorboard, progress.step)

    def on_step(self, step: StepInfo, epoch: EpochMetrics) -> None:
        """Write the metrics of every so many steps."""
        if step.step % self._steps_between:
            return
        values = {
            "step/mean_loss": epoch.loss,
            "step/mean_accuracy": epoch.accuracy,
            "step/learning_rate": step.learning_rate,
            "step/gradient_norm": step.gradient_norm,
            "step/update_norm": step.update_norm,
            "step/seconds": step.seconds,
            "step/input_seconds": step.input_seconds,
            "step/images_per_second": step.images / max(step.seconds, 1e-9),
        }
        if epoch.mfu is not None:
            values["step/mfu"] = epoch.mfu
        self._write(step.step, values)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Write the numbers of an epoch, and flush everything so far to disk."""
        numbers = {
            f"epoch/{name}": float(value)
            for name, value in row.items()
            if type(value) in (int, float) and name not in ("epoch", "step")
        }
        self._write(row["step"], numbers)
        self._events.flush()

    def on_end(self) -> None:
        """Close the file."""
        if self._events is not None:
            self._events.close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))


def _begin_file(folder: Path, start_step: int) -> Any:
    # Not SummaryWriter, whose flush() does not wait for its queue: a killed run would lose the end
    # of its last epoch.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder.mkdir(parents=True, exist_ok=True)
    # The library names files by the second; the step tells files of the same second apart. The
    # path is absolute, since one that begins with "s3:" or "gs:" would mean a remote store.
    events = EventsWriter(str(folder.resolve() / "events"), f".{start_step:09}")
    begin = SessionLog(status=SessionLog.START)
    events.write_event(Event(wall_time=time.time(), step=start_step + 1, session_log=begin))
    return events
