"""What a run says while it goes, as files that TensorBoard shows as curves."""

import math
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.training.callbacks import RunProgress
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Plan

MOST_STEPS_AN_EPOCH = 100


class TensorBoardReporter:
    """Writes RUN/tensorboard/: ``step/…`` at up to a hundred steps an epoch, and ``epoch/…``.

    All curves are over the steps of the run. ``step/mean_loss`` and ``step/mean_accuracy`` are
    means over the epoch so far. ``epoch/…`` are the numbers of ``metrics.jsonl`` by their names.
    A resumed run begins another file, which takes back what the earlier ones say of the steps that
    are made again: TensorBoard shows no step twice.
    """

    def __init__(self) -> None:
        """For one run; use as a context.

        Raises:
            ConfigError: when tensorboardX is not installed.
        """
        if find_spec("tensorboardX") is None:
            raise ConfigError(
                "the log for TensorBoard needs tensorboardX; install it with "
                "pip install 'bottleneck-transformer-flax[log]', or leave the option out"
            )
        self._events: Any = None
        self._steps_between = 1

    def __enter__(self) -> "TensorBoardReporter":
        """Nothing is written before the run is planned."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def planned(self, plan: Plan, run: RunDirectory, start_step: int) -> None:
        """Begin a file, and take back what others say of the steps that are still to come."""
        self._steps_between = math.ceil(plan.steps_per_epoch / MOST_STEPS_AN_EPOCH)
        self._events = _begin_file(run.tensorboard, start_step)

    def stepped(self, progress: RunProgress) -> None:
        """Write down one step in so many."""
        if progress.step % self._steps_between:
            return
        values = {
            "step/mean_loss": progress.loss,
            "step/mean_accuracy": progress.accuracy,
            "step/learning_rate": progress.learning_rate,
            "step/gradient_norm": progress.gradient_norm,
            "step/update_norm": progress.update_norm,
            "step/seconds": progress.seconds,
            "step/input_seconds": progress.input_seconds,
        }
        if progress.seconds > 0:
            values["step/images_per_second"] = progress.images / progress.seconds
        if progress.fraction_of_peak is not None:
            values["step/fraction_of_peak"] = progress.fraction_of_peak
        self._write(progress.step, values)

    def evaluating(self, done: int, total: int) -> None:
        """Nothing: the score comes with the epoch."""

    def finished_epoch(self, row: dict[str, Any]) -> None:
        """Write down the numbers of an epoch, and see that all so far is on disk."""
        numbers = {
            f"epoch/{name}": float(value)
            for name, value in row.items()
            if isinstance(value, int | float)
            and not isinstance(value, bool)
            and name not in ("epoch", "step")
        }
        self._write(row["step"], numbers)
        self._events.flush()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))


def _begin_file(folder: Path, start_step: int) -> Any:
    # Not SummaryWriter, which hands everything to a queue: its flush() does not wait for what is
    # still there, and a killed run would lose the end of its last epoch.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder.mkdir(parents=True, exist_ok=True)
    # The name has the time in seconds; two files of one second must not be one. The path is whole,
    # since "s3:" or "gs:" at its beginning would mean another place.
    events = EventsWriter(str(folder.resolve() / "events"), f".{start_step:09}")
    begin = SessionLog(status=SessionLog.START)
    events.write_event(Event(wall_time=time.time(), step=start_step + 1, session_log=begin))
    return events
