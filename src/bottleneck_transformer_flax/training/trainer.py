"""The training loop: it orders effects, and computes nothing itself."""

import math
import time
from collections.abc import Generator
from typing import Any

from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.batches import Batch
from bottleneck_transformer_flax.data.datasets import fingerprint
from bottleneck_transformer_flax.data.loader import training_batches
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import CheckpointError, DataError, TrainingError
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.models.flops import count_multiply_adds
from bottleneck_transformer_flax.training.best import BestModel
from bottleneck_transformer_flax.training.callbacks import Reporter, Reporters, RunProgress
from bottleneck_transformer_flax.training.in_flight import StepResult, StepsInFlight
from bottleneck_transformer_flax.training.metrics import History
from bottleneck_transformer_flax.training.outcome import Outcome, StopRequest
from bottleneck_transformer_flax.training.parts import make_parts
from bottleneck_transformer_flax.training.peak import peak_operations
from bottleneck_transformer_flax.training.results import write_results
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Plan
from bottleneck_transformer_flax.training.train_step import DeviceBatch, all_finite


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
        self.plan, self.run, self.stop = plan, run, stop
        self.checkpoints = checkpoints
        parts = make_parts(plan)
        self.devices, self.learning_rates, self.train_step, self.evaluator, self.state = parts
        self.peak_operations = self.devices.num_devices * peak_operations(plan.model.config.dtype)
        # Of several processes only one has something to say.
        self.reporter = reporter if self.devices.is_primary else Reporters()
        self.best = BestModel(plan, run)
        self.bad_images = BadImages(skip=plan.config.input.skip_bad_images)
        self.history = History()
        self.fingerprint = fingerprint(plan.splits)
        # The state's own counter is on the device, and may be steps behind.
        self.step = 0
        self._restore()
        # Only now: options that were changed may not have been accepted.
        if self.devices.is_primary:
            run.write_config(plan.config)
        self.in_flight = StepsInFlight()
        self.stop_agreed = False
        self.predictions: Predictions | None = None

    @property
    def epoch(self) -> int:
        """The one under way, from 1."""
        return len(self.history.rows) + 1

    def _restore(self) -> None:
        saved = self.checkpoints.restore(self.state, self._accept)
        if saved is None:
            return
        self.step, self.state = saved.step, saved.state
        self.history = History.from_json(saved.progress)
        # Killed right after the checkpoint, a run may lack what it was writing beside it.
        if self.history.rows and self.history.rows[-1]["step"] == self.step:
            self._keep_if_best(self.history.rows[-1])

    def _accept(self, progress: dict[str, Any]) -> None:
        if progress.get("data", self.fingerprint) != self.fingerprint:
            raise CheckpointError(
                f"the images of {self.plan.config.data} are not those that the run began with: "
                f"there are now {self.plan.splits.description}; bring the former back, or begin "
                f"anew with --like {self.run.path}"
            )
        if progress.get("start", self.plan.start) != self.plan.start:
            raise CheckpointError(
                f"{self.plan.config.pretrained} is not the model that the run began with: its "
                "network or its preprocessing differs; bring the former back, or begin anew with "
                f"--like {self.run.path}"
            )

    def run_to_end(self) -> Outcome:
        """Step, finish epochs, and stop where asked to."""
        self.reporter.planned(self.plan, self.run, self.step)
        try:
            while True:
                outcome = self._run_phase(self.plan.image_size(self.epoch))
                if outcome is not None:
                    return outcome
        finally:
            self.best.close()

    def _run_phase(self, image_size: tuple[int, int]) -> Outcome | None:
        """Train while the images have this size; None where they get another."""
        plan = self.plan
        self.operations = 6.0 * count_multiply_adds(plan.model, image_size) * plan.batch_size
        batches = training_batches(
            plan.splits.train,
            plan.transform(self.epoch),
            batch_size=plan.batch_size,
            seed=plan.config.seed,
            start_step=self.step,
            num_workers=plan.config.input.num_workers,
            process_shard=self.devices.process_shard,
            bad_images=self.bad_images,
        )
        try:
            while True:
                # A run stopped within an evaluation comes back to exactly here.
                if self.step == self.epoch * plan.steps_per_epoch and not self._finish_epoch():
                    return self._leave()
                if self.step >= plan.total_steps:
                    return self._finish()
                if self._stops():
                    return self._leave()
                if plan.image_size(self.epoch) != image_size:
                    return None
                self._take_step(batches)
        finally:
            batches.close()

    def _stops(self) -> bool:
        """Whether to leave now; several processes do so after the same step."""
        return self.stop.requested if self.devices.is_single_process else self.stop_agreed

    def _take_step(self, batches: Generator[Batch, None, None]) -> None:
        start = time.perf_counter()
        batch = next(batches)
        input_seconds = time.perf_counter() - start
        stop = self.devices.any_process(self.stop.requested)
        on_devices = self.devices.place_batch(
            DeviceBatch(batch["image"], batch["label"], batch["valid"])
        )
        self.state, metrics = self.train_step(self.state, on_devices)
        self.step += 1
        self._read_results()
        self.in_flight.add(
            self.step,
            metrics,
            stop=stop,
            seconds=time.perf_counter() - start,
            input_seconds=input_seconds,
        )

    def _read_results(self, *, all_of_them: bool = False) -> None:
        """Add up what the steps say that are done."""
        current = self.history.current
        for result in self.in_flight.results(all_of_them=all_of_them):
            if not (math.isfinite(result.loss_sum) and math.isfinite(result.gradient_norm)):
                what = "gradient" if math.isfinite(result.loss_sum) else "loss"
                mean = result.loss_sum / max(result.images, 1)
                raise TrainingError(self._not_finite(result.step, mean, what))
            current.add(result, self.operations)
            self.stop_agreed |= result.stop
            self.reporter.stepped(self._progress(result))

    def _progress(self, result: StepResult) -> RunProgress:
        current = self.history.current
        return RunProgress(
            epoch=self.epoch,
            step=result.step,
            loss=current.loss,
            accuracy=current.accuracy,
            images=result.images,
            learning_rate=float(self.learning_rates[result.step - 1]),
            gradient_norm=result.gradient_norm,
            update_norm=result.update_norm,
            seconds=result.seconds,
            input_seconds=result.input_seconds,
            fraction_of_peak=current.fraction_of(self.peak_operations),
        )

    def _not_finite(self, step: int, loss: float, what: str) -> str:
        saved = self.checkpoints.latest_step()
        good = (
            "no checkpoint had been written yet"
            if saved is None
            else f"the last good checkpoint is {self.checkpoints.path(saved)}"
        )
        return (
            f"the {what} is not finite at step {step} (epoch {self.epoch}, loss "
            f"{loss:.4g}); {good}. Try a lower --learning-rate, or --clip-norm 1"
        )

    def _finish_epoch(self) -> bool:
        """Evaluate where it is due, write the epoch down, and save; False where stopped before."""
        self._read_results(all_of_them=True)
        config, epoch = self.plan.config, self.epoch
        if not self.history.current.count:
            raise DataError(f"none of the training images of {config.data} can be read")
        last = epoch == config.epochs
        row = self._row()
        if self.plan.scored is not None and (last or epoch % config.evaluate_every_epochs == 0):
            predictions = self.predictions = self._evaluate(self.plan.scored)
            if predictions is None:
                return False
            loss, top1 = predictions.loss, predictions.top1
            if not math.isfinite(loss):
                raise TrainingError(self._not_finite(self.step, loss, "test loss"))
            row |= {"test_loss": loss, "test_accuracy": top1}
            if self.plan.splits.validation is not None:
                row["best"] = top1 > self.history.best_accuracy
            row["test_top5"] = predictions.top5
            self._keep_if_best(row)
        self.history = History([*self.history.rows, row])
        if self.devices.is_primary:
            self.run.write_metrics(self.history.rows)
        if last or epoch % config.save_every_epochs == 0:
            self._save(wait=last)
        self.reporter.finished_epoch(row)
        return True

    def _row(self) -> dict[str, Any]:
        """What is known of the epoch by its steps alone."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "image_size": list(self.plan.image_size(self.epoch)),
            "learning_rate": float(self.learning_rates[self.step - 1]),
            **self.history.current.to_row(self.peak_operations),
        }

    def _keep_if_best(self, row: dict[str, Any]) -> None:
        if not row.get("best") or self.plan.splits.validation is None:
            return
        variables = self.devices.replicate(self.state.inference_variables)
        if self.devices.is_primary:
            self.best.keep(variables, row, count=len(self.plan.splits.validation))

    def _evaluate(self, test: ImageSource) -> Predictions | None:
        return self.evaluator(
            self.state.inference_variables,
            test,
            bad_images=self.bad_images,
            on_batch=lambda done: self.reporter.evaluating(done, len(test)),
            should_stop=lambda: self.stop.requested,
        )

    def _save(self, *, wait: bool = True) -> None:
        # A finite loss came before this update, and says nothing of what it made.
        if not all_finite(self.state.variables):
            loss = self.history.current.loss
            raise TrainingError(self._not_finite(self.step, loss, "model"))
        progress = self.history.to_json() | {"data": self.fingerprint, "start": self.plan.start}
        self.checkpoints.save(self.step, self.state, progress, wait=wait)

    def _leave(self) -> Outcome:
        self._read_results(all_of_them=True)
        self._save()
        return Outcome(self.run, self.step, False, None, self.bad_images)

    def _finish(self) -> Outcome:
        scored, predictions = self.plan.scored, self.predictions
        if scored is not None and predictions is None:
            predictions = self._evaluate(scored)
            if predictions is None:
                return self._leave()
        evaluation = None
        if predictions is not None:
            evaluation = predictions.to_json(self.plan.splits.train.class_names)
        variables = self.devices.replicate(self.state.inference_variables)
        if self.devices.is_primary:
            evaluation = write_results(
                self.run,
                self.plan,
                variables=variables,
                rows=self.history.rows,
                predictions=predictions,
            )
        return Outcome(self.run, self.step, True, evaluation, self.bad_images)
