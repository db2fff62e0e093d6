"""A run described in words after its end: its scores, its calibration, and where everything is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import top5_text
from bottleneck_transformer_flax.cli.setup_text import counted
from bottleneck_transformer_flax.data.datasets import scored_split
from bottleneck_transformer_flax.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from bottleneck_transformer_flax.training.setup import Setup
    from bottleneck_transformer_flax.training.trainer import Outcome


def result_lines(
    setup: "Setup", directory: RunDirectory, outcome: "Outcome", seconds: float
) -> Iterator[str]:
    """The results of a run, and where they are."""
    if outcome.step < setup.total_steps:
        yield _early_end(setup, directory, outcome.step)
    evaluation = outcome.evaluation
    if evaluation is None:
        yield f"trained on all images, with none left to score the model on, in {seconds:.0f} s"
    else:
        loss = "not finite" if evaluation["loss"] is None else f"{evaluation['loss']:.4f}"
        yield (
            f"{scored_split(evaluation)} accuracy {100 * evaluation['top1']:.2f} % on "
            f"{evaluation['count']:,} images (balanced "
            f"{100 * evaluation['balanced_accuracy']:.2f} %, {top5_text(evaluation, ', ')}"
            f"loss {loss}), in {seconds:.0f} s"
        )
    if setup.config.calibration:
        yield _calibration_line(setup, evaluation or {})
    for what, path in (
        ("model", directory.pretrained),
        ("checkpoint", directory.checkpoints),
        ("curves", directory.curves),
        ("confusion", directory.confusion),
        ("reliability", directory.reliability),
    ):
        if path.exists():
            yield f"  {what:<12}{path}"
    chosen, _ = options.choose_checkpoint(None)
    checkpoint = () if chosen == str(directory.path) else ("--checkpoint", directory.path)
    yield f"next: {options.command_line('predict', *checkpoint, directory.example)}"


def _early_end(setup: "Setup", directory: RunDirectory, step: int) -> str:
    """Why a run took fewer epochs than it was to, and which model is where."""
    return (
        f"ended early, after epoch {step // setup.steps_per_epoch} of {setup.config.epochs}: "
        f"{counted(setup.config.patience or 0, 'validation')} in a row made no better model; "
        f"{directory.pretrained} is the last model, {directory.best} the best"
    )


def _calibration_line(setup: "Setup", evaluation: dict[str, Any]) -> str:
    """What the temperature does to the probabilities, or why there is none."""
    from bottleneck_transformer_flax.evaluation.calibration import (
        FEWEST_IMAGES,
        LARGEST_TEMPERATURE,
    )

    if "temperature" in evaluation:
        before, after = (100 * evaluation[name] for name in ("uncalibrated_ece", "ece"))
        return (
            f"calibrated with temperature {evaluation['temperature']:.3f}, fitted on the "
            f"validation images: calibration error (ECE) {before:.2f} % before, {after:.2f} % after"
        )
    if setup.splits.validation is None:
        return "not calibrated: there are no validation images to fit a temperature on"
    if (count := len(setup.splits.validation)) < FEWEST_IMAGES:
        return (
            f"not calibrated: {count} validation images are too few to fit a temperature on; "
            f"{FEWEST_IMAGES} are enough"
        )
    return (
        f"not calibrated: no temperature from {1 / LARGEST_TEMPERATURE:g} to "
        f"{LARGEST_TEMPERATURE:g} fits the validation images"
    )
