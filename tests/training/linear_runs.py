"""Runs of the trainer on the linear model: started, stopped anywhere, and read back from disk."""

import json
from functools import cache

import jax
import numpy as np

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.distributed import StopRequest
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.training.callbacks import Callback
from bottleneck_transformer_flax.training.config import (
    InputOptions,
    ModelOptions,
    OptimizerOptions,
    RunConfig,
)
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import assemble
from bottleneck_transformer_flax.training.trainer import train
from training.tiny import CROPPED, SMALL, LinearModel, array_splits, entries

TIMINGS = ("seconds", "images_per_second", "input_wait", "mfu")
OPTIMIZATION = OptimizerOptions(
    optimizer="adamw", learning_rate=0.05, warmup_epochs=1.0, label_smoothing=0.1, ema_decay=0.9
)
CONFIG = RunConfig(
    variant="botnet_tiny",
    epochs=4,
    batch_size=2,
    seed=3,
    model=ModelOptions(dropout_rate=0.3),
    optimization=OPTIMIZATION,
    input=InputOptions(num_workers=0),
    augmentation=Augmentation(crop="shift", shift_pixels=2),
)


class Recorder(Callback):
    """Keeps all it is told; requests a stop when ``at(event, value)`` is true."""

    def __init__(self, at=None):
        self.events, self.stop, self.at = [], StopRequest(), at

    def _tell(self, event, value=None):
        self.events.append((event, value))
        if self.at is not None and self.at(event, value):
            self.stop.requested = True

    def on_start(self, setup, run, progress):
        self._tell("start", progress.step)

    def on_step(self, step, epoch):
        self._tell("step", step)

    def on_evaluation(self, split, done, total):
        self._tell("evaluation", (split, done, total))

    def on_epoch(self, row):
        self._tell("epoch", row)

    def on_stop(self):
        self._tell("stop")

    def on_end(self):
        self._tell("end")

    def of(self, event):
        return [value for name, value in self.events if name == event]


def in_step(number):
    return lambda event, value: event == "step" and value.step == number


def after_epoch(number):
    return lambda event, value: event == "epoch" and value["epoch"] == number


@cache
def setup_of(config=CONFIG, validation=9, test=None):
    """The setup of a run of the linear model, which compiles once however often it is used."""
    model = LinearModel(config=SMALL.replace(dropout_rate=config.model.dropout_rate))
    return assemble(config, array_splits(7, validation, test), model, CROPPED)


def folder_setup(data, **changes):
    """The setup of a run of the linear model on a folder of images."""
    config = CONFIG.replace(data=str(data), **changes)
    return assemble(config, load_splits(str(data)), LinearModel(SMALL), CROPPED)


def go(path, config=CONFIG, at=None, **splits):
    recorder = Recorder(at)
    setup = setup_of(config, **splits)
    return train(setup, RunDirectory(path), [recorder], recorder.stop), recorder


def saved(path, config=CONFIG):
    """The newest state and progress on disk, and the step of each checkpoint."""
    folder = RunDirectory(path).checkpoints
    with TrainingCheckpoints(folder) as checkpoints:
        found = checkpoints.restore(setup_of(config).initial_state())
    return jax.device_get(found.state), found.progress, numbered(path)


def numbered(path):
    names = entries(RunDirectory(path).checkpoints)
    return sorted(int(name) for name in names if name.isdigit())


def predictions_of(accuracy, loss):
    """Predictions of four images, so many of them right."""
    right = np.arange(4)[:, None] < 4 * accuracy
    return Predictions(
        num_classes=3,
        positions=np.arange(4),
        labels=np.zeros(4, int),
        top_classes=np.where(right, 0, 1),
        top_probabilities=np.full((4, 1), 0.5),
        losses=np.full(4, loss),
    )


def untimed(row):
    return {name: value for name, value in row.items() if name not in TIMINGS}


def rows_of(path):
    lines = RunDirectory(path).metrics.read_text().splitlines()
    return [untimed(json.loads(line)) for line in lines]
