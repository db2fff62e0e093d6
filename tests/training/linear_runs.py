"""Runs of the loop on the linear model: started, stopped anywhere, and read back from disk."""

import json

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.checkpoints.training import TrainingCheckpoints
from bottleneck_transformer_flax.training.config import (
    InputOptions,
    ModelOptions,
    OptimizerOptions,
    RunConfig,
)
from bottleneck_transformer_flax.training.optimizer import learning_rate_schedule, make_optimizer
from bottleneck_transformer_flax.training.outcome import StopRequest
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Plan
from bottleneck_transformer_flax.training.train_step import create_state
from bottleneck_transformer_flax.training.trainer import train
from training.tiny import (
    CROPPED,
    SMALL,
    LinearModel,
    array_splits,
    entries,
)

STEPS_PER_EPOCH = 3
TIMINGS = ("seconds", "images_per_second", "input_wait", "fraction_of_peak")
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


class Recorder:
    """Writes down all it is told; asks to stop when ``at(event, value)`` is true."""

    def __init__(self, at=None):
        self.events, self.stop, self.at = [], StopRequest(), at

    def _tell(self, event, value):
        self.events.append((event, value))
        if self.at is not None and self.at(event, value):
            self.stop.requested = True

    def planned(self, plan, run, start_step):
        self._tell("planned", start_step)

    def stepped(self, progress):
        self._tell("stepped", progress)

    def evaluating(self, done, total):
        self._tell("evaluating", (done, total))

    def finished_epoch(self, row):
        self._tell("finished", row)

    def of(self, event):
        return [value for name, value in self.events if name == event]


def plan_of(config=CONFIG):
    model = LinearModel(config=SMALL.replace(dropout_rate=config.model.dropout_rate))
    splits = array_splits(train=3 * config.batch_size + 1, test=9)
    return Plan(
        config=config,
        splits=splits,
        model=model,
        model_name="linear",
        pretrained=None,
        preprocessing=CROPPED,
        parameters=15,
        batch_size=config.batch_size,
        steps_per_epoch=STEPS_PER_EPOCH,
    )


def go(path, config=CONFIG, at=None):
    recorder = Recorder(at)
    return train(plan_of(config), RunDirectory(path), recorder, recorder.stop), recorder


def saved(path, config=CONFIG):
    """The newest state and progress on disk, and the step of each checkpoint."""
    schedule = learning_rate_schedule(
        config.optimization, steps_per_epoch=STEPS_PER_EPOCH, epochs=config.epochs
    )
    variables = plan_of(config).model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    average = config.optimization.ema_decay is not None
    like = create_state(variables, make_optimizer(config.optimization, schedule), average=average)
    folder = RunDirectory(path).checkpoints
    steps = sorted(int(name) for name in entries(folder) if name.isdigit())
    with TrainingCheckpoints(folder) as checkpoints:
        found = checkpoints.restore(like)
    return found.state, found.progress, steps


def untimed(row):
    return {name: value for name, value in row.items() if name not in TIMINGS}


def rows_of(path):
    lines = RunDirectory(path).metrics.read_text().splitlines()
    return [untimed(json.loads(line)) for line in lines]
