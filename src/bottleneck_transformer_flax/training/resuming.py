"""What a run starts or resumes with, once its checkpoint is known to fit its setup."""

import logging
from typing import Any

from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.distributed import is_primary_process
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.training.metrics import Progress
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Setup
from bottleneck_transformer_flax.training.train_state import TrainState

_log = logging.getLogger(__name__)


def restore_or_initialize(
    setup: Setup, directory: RunDirectory, checkpoints: TrainingCheckpoints
) -> tuple[TrainState, Progress]:
    """The state and progress of the newest checkpoint, or those before the first step.

    Raises:
        CheckpointError: when the checkpoint belongs to another model or other images.
        ConfigError: when the run cannot go on to the number of epochs asked for.
    """

    def accept(progress: dict[str, Any]) -> None:
        Progress.from_json(progress)
        if progress["images"] != setup.hashes["images"]:
            raise CheckpointError(
                f"the images of {setup.config.data} are not those that the run began with: there "
                f"are now {setup.splits.description}; restore the original images, or begin a new "
                f"run with --like {directory.path}"
            )
        if progress["model"] != setup.hashes["model"]:
            raise CheckpointError(
                f"{setup.config.pretrained or setup.model_name} is not the model that the run "
                "began with: its network or its preprocessing differs; restore the original model, "
                f"or begin a new run with --like {directory.path}"
            )

    state, progress = setup.initial_state(), Progress()
    saved = checkpoints.restore(state, accept)
    if saved is not None:
        state, progress = saved.state, Progress.from_json(saved.progress)
    elif directory.metrics.exists() and is_primary_process():
        _log.warning("%s has no checkpoint: training begins anew", directory.path)
    _plan(setup, directory, progress)
    return state, progress


def _plan(setup: Setup, directory: RunDirectory, progress: Progress) -> None:
    """Record in the progress how many epochs are planned, where the number is new."""
    config, planned = setup.config, progress.planned
    if progress.step and not planned:
        # Checkpoints of earlier commits hold no number; the run's own record does.
        planned.append({"from_step": 0, "epochs": directory.read_config().epochs})
    if planned and planned[-1]["epochs"] == config.epochs:
        return
    if progress.step > setup.total_steps:
        raise ConfigError(
            f"epochs is {config.epochs}, but {progress.step} steps of {setup.steps_per_epoch} per "
            f"epoch are taken; expected at least {-(-progress.step // setup.steps_per_epoch)}"
        )
    over = progress.is_between_epochs and len(progress.rows) == config.epochs
    if over and setup.splits.validation is not None and "best" not in progress.rows[-1]:
        raise ConfigError(
            f"epochs is {config.epochs}, but epoch {config.epochs} is over and was not validated, "
            f"as the last one must be; expected at least {config.epochs + 1}"
        )
    if progress.step and config.input.progressive_phases > 1:
        first = "" if directory.pretrained.exists() else "finish the run, then "
        raise ConfigError(
            f"epochs is {config.epochs}, but the images grow in {config.input.progressive_phases} "
            f"phases over the {planned[-1]['epochs']} epochs that were planned, and would shrink "
            f"again; {first}begin a new one from its model with --pretrained {directory.path}"
        )
    planned.append({"from_step": progress.step, "epochs": config.epochs})
    if len(progress.rows) < config.epochs and progress.has_ended(config):
        raise ConfigError(
            f"the run has ended early, for its last {config.patience} validations made no better "
            f"model; to go on to epoch {config.epochs}, add a larger --patience, or --patience None"
        )
