"""The training loop: it orders effects, and computes nothing itself."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.distributed import (
    STEPS_IN_FLIGHT,
    StopRequest,
    is_primary_process,
)
from bottleneck_transformer_flax.errors import DataError, TrainingError
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.training.artifacts import save_best, write_artifacts
from bottleneck_transformer_flax.training.callbacks import Callback
from bottleneck_transformer_flax.training.dispatch import (
    DispatchedStep,
    finished_steps,
    take_step,
)
from bottleneck_transformer_flax.training.metrics import (
    EpochMetrics,
    Progress,
    final_scores,
    peak_flops_per_second,
    validation_row,
)
from bottleneck_transformer_flax.training.resuming import restore_or_initialize
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.run_images import record_images
from bottleneck_transformer_flax.training.setup import Setup
from bottleneck_transformer_flax.training.train_state import TrainState, all_finite


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        step: steps taken.
        finished: whether it came to its end; otherwise it was saved and can be resumed.
        evaluation: content of ``evaluation.json``; None without one.
        bad_images: the unreadable images met.
    """

    step: int
    finished: bool
    evaluation: dict[str, Any] | None
    bad_images: BadImages


class _Run(NamedTuple):
    """What all parts of the loop share; nothing in it is replaced during the run."""

    setup: Setup
    directory: RunDirectory
    checkpoints: TrainingCheckpoints
    callbacks: Sequence[Callback]
    stop: StopRequest
    bad_images: BadImages
    in_flight: deque[DispatchedStep]


def train(
    setup: Setup,
    directory: RunDirectory,
    callbacks: Sequence[Callback] = (),
    stop: StopRequest | None = None,
) -> Outcome:
    """Train from a run's newest checkpoint, or from the start, to the end.

    A run that is stopped and resumed ends with the same variables, bit for bit on CPU, as an
    uninterrupted one. Resumed with another number of epochs, a run goes on as one planned
    for that many.

    Args:
        setup: what to compute with; the run in ``directory`` must have begun with the same, except
            for the number of epochs and the patience.
        directory: where everything is written.
        callbacks: told what happens, in this order.
        stop: when requested, the run is saved and left after the step under way.

    Raises:
        TrainingError: when a loss, a gradient or the model is not finite.
        DataError: when an image cannot be read and is not to be skipped.
        CheckpointError: when the run's checkpoint belongs to another model or other images.
        ConfigError: when the run cannot go on to the number of epochs asked for.
    """
    stop, bad_images = stop or StopRequest(), BadImages(skip=setup.config.input.skip_bad_images)
    # Among several processes only the primary one has something to tell.
    callbacks = callbacks if is_primary_process() else ()
    with TrainingCheckpoints(directory.checkpoints) as checkpoints, _ended(callbacks):
        run = _Run(setup, directory, checkpoints, callbacks, stop, bad_images, deque())
        state, progress = _restore_or_initialize(run)
        for callback in callbacks:
            callback.on_start(setup, directory, progress)
        with closing(setup.batches(progress.step, bad_images)) as batches:
            while True:
                # Asked before each step: a run that was stopped in an evaluation resumes here.
                epoch_end = min(progress.epoch_number * setup.steps_per_epoch, setup.total_steps)
                epoch_is_over = progress.step == epoch_end and not progress.is_between_epochs
                if epoch_is_over and not _finish_epoch(run, state, progress):
                    return _save_and_leave(run, state, progress)
                if progress.has_ended(setup.config):
                    return _finish(run, state, progress)
                if stop.agreed_by_all_processes(setup.devices):
                    return _save_and_leave(run, state, progress)
                progress.step += 1
                state = take_step(setup, state, progress.step, batches, run.in_flight)
                _add_finished_steps(run, progress, leave=STEPS_IN_FLIGHT)


@contextmanager
def _ended(callbacks: Sequence[Callback]) -> Iterator[None]:
    try:
        yield
    finally:
        for callback in callbacks:
            callback.on_end()


def _restore_or_initialize(run: _Run) -> tuple[TrainState, Progress]:
    """The state and progress to go on from, with everything before them on disk."""
    state, progress = restore_or_initialize(run.setup, run.directory, run.checkpoints)
    # A run that was killed right after the checkpoint may lack its best model.
    if progress.rows and progress.is_between_epochs:
        _keep_if_best(run, state, progress.rows[-1])
    # Only now: the checkpoint may have refused options that were changed.
    if is_primary_process():
        images = record_images(run.directory, run.setup.config, run.setup.splits)
        run.directory.write_config(run.setup.config, images, progress.planned)
    _begin_epoch(run, progress, progress.epoch)
    return state, progress


def _begin_epoch(run: _Run, progress: Progress, epoch: EpochMetrics) -> None:
    progress.epoch = epoch
    if any(callback.shows_mfu for callback in run.callbacks):
        setup = run.setup
        peak = setup.devices.num_devices * peak_flops_per_second(setup.model.config.dtype)
        epoch.ideal_step_seconds = setup.step_flops(progress.epoch_number) / peak


def _add_finished_steps(run: _Run, progress: Progress, *, leave: int) -> None:
    """Wait for all steps but the newest ``leave``, and add them to the epoch's metrics."""
    for step in finished_steps(run.in_flight, leave=leave):
        for name, value in (("loss", step.loss_sum), ("gradient", step.gradient_norm)):
            if not math.isfinite(value):
                raise _not_finite(run, name, step.step, step.loss_sum / max(step.images, 1))
        progress.epoch.add(step)
        for callback in run.callbacks:
            callback.on_step(step, progress.epoch)


def _not_finite(run: _Run, what: str, step: int, loss: float | None = None) -> TrainingError:
    saved = run.checkpoints.latest_step()
    good = "no checkpoint had been written yet"
    if saved is not None:
        good = f"the last good checkpoint is {run.checkpoints.path(saved)}"
    epoch = 1 + (step - 1) // run.setup.steps_per_epoch
    where = f"epoch {epoch}" if loss is None else f"epoch {epoch}, loss {loss:.4g}"
    clip = "" if run.setup.config.optimization.clip_norm else ", or --clip-norm 1"
    return TrainingError(
        f"the {what} is not finite at step {step} ({where}); {good}. Begin a new run with --like "
        f"{run.directory.path} and a lower --learning-rate{clip}"
    )


def _finish_epoch(run: _Run, state: TrainState, progress: Progress) -> bool:
    """Validate where due, write the epoch down, and save; False where a stop came in between."""
    _add_finished_steps(run, progress, leave=0)
    setup, config, epoch = run.setup, run.setup.config, progress.epoch_number
    if not progress.epoch.images:
        raise DataError(f"none of the training images of {config.data} can be read")
    row = {
        "epoch": epoch,
        "step": progress.step,
        "image_size": list(setup.image_size(epoch)),
        "learning_rate": float(setup.learning_rates[progress.step - 1]),
        **progress.epoch.to_row(),
    }
    due = epoch == config.epochs or epoch % config.evaluate_every_epochs == 0
    if setup.splits.validation is not None and due:
        progress.validation = _evaluate(run, state, "validation")
        if progress.validation is None:
            return False
        loss, accuracy = progress.validation.loss, progress.validation.top1
        if not math.isfinite(loss):
            raise _not_finite(run, "validation loss", progress.step, loss)
        row |= {"validation_origin": setup.splits.validation.origin}
        row |= validation_row(progress.validation) | {"best": progress.is_best(accuracy, loss)}
        _keep_if_best(run, state, row)
    progress.rows.append(row)
    _begin_epoch(run, progress, EpochMetrics())
    if is_primary_process():
        run.directory.write_metrics(progress.rows)
    ended = progress.has_ended(config)
    if ended or epoch % config.save_every_epochs == 0:
        _save(run, state, progress, wait=ended)
    for callback in run.callbacks:
        callback.on_epoch(row)
    return True


def _evaluate(run: _Run, state: TrainState, split: str) -> Predictions | None:
    """Score a split; None where a stop was requested meanwhile."""
    source = getattr(run.setup.splits, split)

    def on_batch(done: int) -> None:
        for callback in run.callbacks:
            callback.on_evaluation(split, done, len(source))

    return run.setup.evaluator(
        state.inference_variables,
        source,
        bad_images=run.bad_images,
        on_batch=on_batch,
        should_stop=lambda: run.stop.requested,
    )


def _keep_if_best(run: _Run, state: TrainState, row: dict[str, Any]) -> None:
    if row.get("best"):
        variables = run.setup.devices.replicate(state.inference_variables)
        if is_primary_process():
            save_best(run.directory, run.setup, variables, row)


def _save(run: _Run, state: TrainState, progress: Progress, *, wait: bool = True) -> None:
    # A finite loss was computed before the last update, and says nothing about its result.
    if not all_finite(state.variables):
        raise _not_finite(run, "model", progress.step)
    run.checkpoints.save(progress.step, state, progress.to_json() | run.setup.hashes, wait=wait)


def _save_and_leave(run: _Run, state: TrainState, progress: Progress) -> Outcome:
    _add_finished_steps(run, progress, leave=0)
    for callback in run.callbacks:
        callback.on_stop()
    _save(run, state, progress)
    return Outcome(progress.step, False, None, run.bad_images)


def _finish(run: _Run, state: TrainState, progress: Progress) -> Outcome:
    """Score the last model and write the artifacts: on the test split where there is one."""
    split = "validation" if run.setup.splits.test is None else "test"
    predictions = progress.validation if split == "validation" else None
    if predictions is None and getattr(run.setup.splits, split) is not None:
        predictions = _evaluate(run, state, split)
        if predictions is None:
            return _save_and_leave(run, state, progress)
    evaluation = None
    if predictions is not None:
        temperature = progress.rows[-1].get("temperature")
        predictions, scores = final_scores(predictions, temperature, run.setup.class_names)
        evaluation = {"split": split, "origin": getattr(run.setup.splits, split).origin} | scores
    variables = run.setup.devices.replicate(state.inference_variables)
    if is_primary_process():
        write_artifacts(run.directory, run.setup, variables, progress.rows, predictions, evaluation)
    return Outcome(progress.step, True, evaluation, run.bad_images)
