"""The training loop: it orders effects, and computes nothing itself."""

import math
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

from bottleneck_transformer_flax.checkpoints.training_state import TrainingCheckpoints
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.loader import Batch, training_batches
from bottleneck_transformer_flax.data.sources import fingerprint
from bottleneck_transformer_flax.errors import CheckpointError, DataError, TrainingError
from bottleneck_transformer_flax.evaluation.evaluate import Evaluator
from bottleneck_transformer_flax.evaluation.metrics import ClassificationSums
from bottleneck_transformer_flax.training.history import History
from bottleneck_transformer_flax.training.optimizer import learning_rate_schedule, make_optimizer
from bottleneck_transformer_flax.training.plan import Plan
from bottleneck_transformer_flax.training.reporter import Reporter, RunProgress
from bottleneck_transformer_flax.training.results import write_results
from bottleneck_transformer_flax.training.run import RunDirectory
from bottleneck_transformer_flax.training.start import initial_variables
from bottleneck_transformer_flax.training.state import (
    DeviceBatch,
    StepMetrics,
    all_finite,
    create_state,
    make_train_step,
)

# Metrics are read this many steps late, so that the device always has a next step to compute.
_STEPS_IN_FLIGHT = 2
_LARGEST_EVALUATION_BATCH = 250


@dataclass
class StopRequest:
    """Set by a signal handler or a test; the loop looks at it after every step."""

    requested: bool = False


class Outcome(NamedTuple):
    """How a run ended."""

    run: RunDirectory
    step: int
    finished: bool
    evaluation: dict[str, Any] | None
    bad_images: BadImages


class _StopDuringEvaluation(Exception):
    """Leaves an evaluation that nobody waits for any more."""


def train(
    plan: Plan, run: RunDirectory, reporter: Reporter, stop: StopRequest | None = None
) -> Outcome:
    """Train from the newest checkpoint of a run, or from the start, to the end.

    A run that is stopped and called again ends with the same variables, bit for bit on CPU, as
    one that was not.

    Args:
        plan: of the run; what ``run`` recorded must say the same.
        run: where everything is written.
        reporter: told what happens.
        stop: looked at after every step; when set, the run is saved and left.

    Raises:
        TrainingError: when the loss is not finite.
        DataError: when an image cannot be read, and is not to be left out.
        CheckpointError: when the run's checkpoint is of another model.
    """
    with TrainingCheckpoints(run.checkpoints) as checkpoints:
        return _Training(plan, run, reporter, stop or StopRequest(), checkpoints).run_to_end()


class _Training:
    """One call of ``train``: its parts, and the steps between them."""

    def __init__(
        self,
        plan: Plan,
        run: RunDirectory,
        reporter: Reporter,
        stop: StopRequest,
        checkpoints: TrainingCheckpoints,
    ) -> None:
        config, optimization = plan.config, plan.config.optimization
        self.plan, self.run, self.reporter, self.stop = plan, run, reporter, stop
        self.checkpoints = checkpoints
        self.schedule = learning_rate_schedule(
            optimization, steps_per_epoch=plan.steps_per_epoch, epochs=config.epochs
        )
        optimizer = make_optimizer(optimization, self.schedule, plan.part_rates)
        self.train_step = make_train_step(
            plan.training_model,
            optimizer,
            plan.preprocessing,
            seed=config.seed,
            label_smoothing=optimization.label_smoothing,
            accumulation_steps=optimization.accumulation_steps,
            ema_decay=optimization.ema_decay,
        )
        self.evaluator = Evaluator(
            plan.model,
            plan.preprocessing,
            batch_size=min(plan.batch_size * 4, _LARGEST_EVALUATION_BATCH),
            num_workers=plan.config.input.num_workers,
        )
        self.bad_images = BadImages(skip=config.input.skip_bad_images)
        self.history = History()
        average = optimization.ema_decay is not None
        self.state = create_state(initial_variables(plan), optimizer, average=average)
        self.fingerprint = fingerprint(plan.splits)
        if checkpoints.latest_step() is not None:
            self._restore()
        # The state's own counter is on the device, and may be steps behind.
        self.step = int(self.state.step)
        self.in_flight: deque[tuple[int, StepMetrics]] = deque()
        self.sums: ClassificationSums | None = None

    def _restore(self) -> None:
        saved = self.checkpoints.latest_progress()
        if saved.get("data", self.fingerprint) != self.fingerprint:
            raise CheckpointError(
                f"the images of {self.plan.config.data} are not those that the run began with: "
                f"there are now {self.plan.splits.description}; bring the former back, or begin "
                f"anew with --like {self.run.path}"
            )
        if saved.get("start", self.plan.start) != self.plan.start:
            raise CheckpointError(
                f"{self.plan.config.pretrained} is not the model that the run began with: its "
                "network or its preprocessing differs; bring the former back, or begin anew with "
                f"--like {self.run.path}"
            )
        self.state = self.checkpoints.restore(self.state)
        self.history = History.from_json(saved)

    def run_to_end(self) -> Outcome:
        """Step, finish epochs, and stop where asked to."""
        plan = self.plan
        self.reporter.planned(plan, self.run, self.step)
        batches = training_batches(
            plan.splits.train,
            plan.transform,
            batch_size=plan.batch_size,
            seed=plan.config.seed,
            start_step=self.step,
            num_workers=plan.config.input.num_workers,
        )
        try:
            return self._loop(batches)
        finally:
            batches.close()

    def _loop(self, batches: Generator[Batch, None, None]) -> Outcome:
        plan = self.plan
        while True:
            epoch_end = (len(self.history.rows) + 1) * plan.steps_per_epoch
            # A run stopped within an evaluation comes back to exactly here.
            if self.step == epoch_end:
                try:
                    self._finish_epoch()
                except _StopDuringEvaluation:
                    return self._leave()
            if self.step >= plan.total_steps:
                return self._finish()
            if self.stop.requested:
                return self._leave()
            self._take_step(next(batches))

    def _take_step(self, batch: Batch) -> None:
        start = time.perf_counter()
        self.bad_images.check(batch, self.plan.splits.train)
        self.state, metrics = self.train_step(
            self.state, DeviceBatch(batch["image"], batch["label"], batch["valid"])
        )
        self.step += 1
        self.in_flight.append((self.step, metrics))
        self._read_metrics(leave=_STEPS_IN_FLIGHT)
        self.history.current.seconds += time.perf_counter() - start

    def _read_metrics(self, *, leave: int) -> None:
        """Wait for all but the last few steps, and add up what they say."""
        current = self.history.current
        while len(self.in_flight) > leave:
            step, metrics = self.in_flight.popleft()
            loss_sum, count = float(metrics.loss_sum), int(metrics.images)
            if not (math.isfinite(loss_sum) and math.isfinite(float(metrics.gradient_norm))):
                what = "gradient" if math.isfinite(loss_sum) else "loss"
                raise TrainingError(self._not_finite(step, loss_sum / max(count, 1), what))
            current.loss_sum += loss_sum
            current.correct += int(metrics.correct)
            current.count += count
            self.reporter.stepped(
                RunProgress(
                    epoch=len(self.history.rows) + 1,
                    step=step,
                    loss=current.loss,
                    accuracy=current.accuracy,
                    images=count,
                )
            )

    def _not_finite(self, step: int, loss: float, what: str) -> str:
        saved = self.checkpoints.latest_step()
        good = (
            "no checkpoint had been written yet"
            if saved is None
            else f"the last good checkpoint is {self.checkpoints.path(saved)}"
        )
        return (
            f"the {what} is not finite at step {step} (epoch {len(self.history.rows) + 1}, loss "
            f"{loss:.4g}); {good}. Try a lower --learning-rate, or --clip-norm 1"
        )

    def _finish_epoch(self) -> None:
        """Evaluate where it is due, write the epoch down, and save."""
        self._read_metrics(leave=0)
        config, current = self.plan.config, self.history.current
        if not current.count:
            raise DataError(f"none of the training images of {config.data} can be read")
        epoch = len(self.history.rows) + 1
        last = epoch == config.epochs
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "train_loss": current.loss,
            "train_accuracy": current.accuracy,
            "learning_rate": float(self.schedule(self.step - 1)),
            "seconds": round(current.seconds, 3),
            "images_per_second": round(current.count / max(current.seconds, 1e-9), 1),
        }
        if last or epoch % config.evaluate_every_epochs == 0:
            self.sums = self._evaluate()
            if not math.isfinite(self.sums.loss):
                raise TrainingError(self._not_finite(self.step, self.sums.loss, "test loss"))
            row |= {"test_loss": self.sums.loss, "test_accuracy": self.sums.top1}
        self.history = History([*self.history.rows, row])
        self.run.write_metrics(self.history.rows)
        if last or epoch % config.save_every_epochs == 0:
            self._save()
        self.reporter.finished_epoch(row)

    def _evaluate(self) -> ClassificationSums:
        test = self.plan.splits.test

        def on_batch(done: int) -> None:
            if self.stop.requested and done < len(test):
                raise _StopDuringEvaluation
            self.reporter.evaluating(done, len(test))

        return self.evaluator(
            self.state.inference_variables, test, bad_images=self.bad_images, on_batch=on_batch
        )

    def _save(self) -> None:
        # A finite loss came before this update, and says nothing of what it made.
        if not all_finite(self.state.variables):
            loss = self.history.current.loss
            raise TrainingError(self._not_finite(self.step, loss, "model"))
        progress = self.history.to_json() | {"data": self.fingerprint, "start": self.plan.start}
        self.checkpoints.save(self.step, self.state, progress)

    def _leave(self) -> Outcome:
        self._read_metrics(leave=0)
        self._save()
        return Outcome(self.run, self.step, False, None, self.bad_images)

    def _finish(self) -> Outcome:
        try:
            sums = self.sums or self._evaluate()
        except _StopDuringEvaluation:
            return self._leave()
        evaluation = write_results(
            self.run,
            self.plan,
            variables=self.state.inference_variables,
            rows=self.history.rows,
            sums=sums,
        )
        return Outcome(self.run, self.step, True, evaluation, self.bad_images)
