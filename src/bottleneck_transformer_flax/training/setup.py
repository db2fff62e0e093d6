"""Everything a run computes with, built once from its options."""

import hashlib
import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bottleneck_transformer_flax.augmentation.image import TrainingTransform
from bottleneck_transformer_flax.axes import Float
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.data.bad_images import BadImages, check_images
from bottleneck_transformer_flax.data.batches import Batch
from bottleneck_transformer_flax.data.datasets import Splits, fingerprint
from bottleneck_transformer_flax.data.loader import training_batches
from bottleneck_transformer_flax.decoding import allow_pixels
from bottleneck_transformer_flax.distributed import DataParallel, make_data_parallel
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.evaluation.evaluator import Evaluator
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import (
    abstract_variables,
    count_multiply_adds,
    count_parameters,
)
from bottleneck_transformer_flax.models.variants import find_variant
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.optimizer import learning_rate_schedule
from bottleneck_transformer_flax.training.run_images import load_images
from bottleneck_transformer_flax.training.starting_point import initial_variables, starting_point
from bottleneck_transformer_flax.training.train_state import TrainState, create_state
from bottleneck_transformer_flax.training.train_step import TrainStep, make_optimizer_and_step

_LARGEST_EVALUATION_BATCH = 250
# The learning rate of every step is kept in memory.
_MOST_STEPS = 10**8


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """Everything a run computes with; nothing is compiled or initialised before it is used.

    Attributes:
        config: options of the run; epochs are at most those in which ``max_steps`` end.
        splits: images to train on, to validate on, and to test on.
        model: the model as it is scored and saved.
        pretrained: the model to start from, at the run's image size; None for a random start.
        preprocessing: how images become the model's input.
        num_parameters: number of parameters of the model.
        batch_size: images per step, over all devices.
        steps_per_epoch: steps per epoch.
        devices: the devices, and how state and batches are laid out on them.
        learning_rates: learning rate of every step of the run.
        optimizer: the optax optimizer, at a learning rate of 1.
        train_step: jitted function from a state, a batch and a learning rate to the next state and
            its metrics.
    """

    config: RunConfig
    splits: Splits
    model: BoTNet
    pretrained: Pretrained | None
    preprocessing: Preprocessing
    num_parameters: int
    batch_size: int
    steps_per_epoch: int
    devices: DataParallel
    learning_rates: Float[np.ndarray, " steps"]
    optimizer: optax.GradientTransformation
    train_step: TrainStep

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return len(self.learning_rates)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return self.splits.train.class_names

    @property
    def model_name(self) -> str:
        """Name of the model's variant; "custom" where it is none."""
        variant = find_variant(self.model.config)
        return "custom" if variant is None else variant.name

    @property
    def keeps_head(self) -> bool:
        """Whether the pretrained head has the data's own classes, in the same order.

        ImageNet's folders are named after synsets, which count as the names of their classes.
        """
        synsets = imagenet.names_of_synsets()
        names = tuple(synsets.get(name, name) for name in self.class_names)
        return self.pretrained is not None and self.pretrained.classes in (self.class_names, names)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Scores the model on a source of images."""
        return Evaluator(
            self.model,
            self.preprocessing,
            batch_size=min(self.batch_size * 4, _LARGEST_EVALUATION_BATCH),
            num_workers=self.config.input.num_workers,
            keep_logits=self.config.calibration,
            devices=self.devices,
        )

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Hashes of what a run cannot change when it resumes: its images, and its model.

        "images" is of their names and labels, whatever folder they are in; "model" is of the
        architecture and the preprocessing.
        """
        model = [self.model.config.to_json(), self.preprocessing.to_json()]
        model_hash = hashlib.sha256(json.dumps(model).encode()).hexdigest()
        return {"images": fingerprint(self.splits), "model": model_hash}

    def identity(self) -> dict[str, Any]:
        """Everything that must be the same in every process of a run, by name."""
        options = self.config.flattened()
        # Each process may have the images elsewhere, and its own number of workers.
        del options["data"], options["input.num_workers"]
        return options | {name: value[:12] for name, value in self.hashes.items()}

    def image_size(self, epoch: int) -> tuple[int, int]:
        """(height, width) of the training images in an epoch, counted from 1."""
        phases, start = self.config.input.progressive_phases, self.config.input.progressive_start
        phase = (epoch - 1) * phases // self.config.epochs
        if phase >= phases - 1:
            return self.preprocessing.size
        fraction = start + (1 - start) * phase / (phases - 1)
        stride = self.model.config.total_stride
        height, width = (
            min(side, max(stride, stride * round(fraction * side / stride)))
            for side in self.preprocessing.size
        )
        return height, width

    def transform(self, epoch: int) -> TrainingTransform:
        """How images become training input in an epoch, counted from 1."""
        preprocessing = self.preprocessing.replace(size=self.image_size(epoch))
        return TrainingTransform(preprocessing, self.config.augmentation)

    def step_flops(self, epoch: int) -> float:
        """FLOPs of the model in a step: two per multiply-add, backward twice forward."""
        return 6.0 * count_multiply_adds(self.model, self.image_size(epoch)) * self.batch_size

    def batches(self, step: int, bad_images: BadImages) -> Generator[Batch, None, None]:
        """This process's shard of every batch after a step, in the image size of its epoch."""
        while True:
            epoch = 1 + step // self.steps_per_epoch
            phase = training_batches(
                self.splits.train,
                self.transform(epoch),
                batch_size=self.batch_size,
                seed=self.config.seed,
                balanced=self.config.class_balance == "sampling",
                start_step=step,
                num_workers=self.config.input.num_workers,
                process_shard=self.devices.process_shard,
                bad_images=bad_images,
            )
            with closing(phase):
                while self.image_size(1 + step // self.steps_per_epoch) == self.image_size(epoch):
                    yield next(phase)
                    step += 1

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices; it follows from the config alone."""
        average = self.config.optimization.ema_decay is not None
        variables = initial_variables(
            self.model,
            self.preprocessing.size,
            jax.random.key(self.config.seed),
            pretrained=self.pretrained,
            keeps_head=self.keeps_head,
        )
        # As one program: JAX would compile one for every operation on every shape.
        create = jax.jit(partial(create_state, optimizer=self.optimizer, average=average))
        return self.devices.place_state(create(variables))


def make_setup(config: RunConfig, splits: Splits | None = None) -> Setup:
    """List the images, load the pretrained model, and build what the options ask for.

    Args:
        config: options of the run; epochs are at most those in which ``max_steps`` end.
        splits: the images, where they are listed already.

    Raises:
        ConfigError: for options that don't fit each other, the data or the devices.
        DataError: when the data cannot be used; of a small data set, when an image cannot be read.
        CheckpointError: when the pretrained model cannot be loaded.
    """
    allow_pixels(config.input.max_pixels)
    splits = load_images(config) if splits is None else splits
    if not config.input.skip_bad_images:
        images = [source for source in splits[:3] if source is not None]
        check_images(images, (jax.process_index(), jax.process_count()))
    start, preprocessing, pretrained = starting_point(config, splits.train.native_size)
    model_config = start.replace(num_classes=len(splits.train.class_names), **vars(config.model))
    return assemble(config, splits, BoTNet(config=model_config), preprocessing, pretrained)


def assemble(
    config: RunConfig,
    splits: Splits,
    model: BoTNet,
    preprocessing: Preprocessing,
    pretrained: Pretrained | None = None,
) -> Setup:
    """The setup for a model and images that are there already.

    Raises:
        ConfigError: for options that don't fit each other, the data or the devices.
    """
    optimization = config.optimization
    _check_patience(config, splits)
    batch_size = _batch_size(config, len(splits.train))
    steps_per_epoch = len(splits.train) // batch_size
    steps = steps_per_epoch * config.epochs
    if config.max_steps is not None and config.max_steps < steps:
        steps = config.max_steps
        config = config.replace(epochs=-(-steps // steps_per_epoch))
    if steps > _MOST_STEPS:
        raise ConfigError(f"{config.epochs} epochs are {steps} steps; expected up to {_MOST_STEPS}")
    devices = make_data_parallel(
        batch_size // optimization.accumulation_steps,
        shard_parameters=optimization.shard_parameters,
    )
    schedule = learning_rate_schedule(
        optimization, steps_per_epoch=steps_per_epoch, total_steps=steps
    )
    optimizer, train_step = make_optimizer_and_step(
        config, model, preprocessing, splits.train.labels, devices
    )
    setup = Setup(
        config=config,
        splits=splits,
        model=model,
        pretrained=pretrained,
        preprocessing=preprocessing,
        # Images that are too small for the model are refused here.
        num_parameters=count_parameters(abstract_variables(model, preprocessing.size)),
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        devices=devices,
        learning_rates=np.asarray(jax.jit(schedule)(jnp.arange(steps, dtype=jnp.float32))),
        optimizer=optimizer,
        train_step=train_step,
    )
    # The smallest images come first; a shift that is too long for them is refused here.
    setup.transform(epoch=1)
    return setup


def _check_patience(config: RunConfig, splits: Splits) -> None:
    if config.patience is not None and splits.validation is None:
        raise ConfigError(
            f"patience is {config.patience}, but without validation images no model is better than "
            "another; hold some out with --validation-fraction 0.1, or leave --patience out"
        )


def _batch_size(config: RunConfig, num_images: int) -> int:
    """The batch size, reduced to the training images where there are fewer."""
    optimization = config.optimization
    batch_size = min(config.batch_size, num_images)
    if batch_size % (optimization.accumulation_steps * optimization.batch_norm_groups):
        raise ConfigError(
            f"batch_size is {config.batch_size} but there are only {num_images} training images, "
            f"which accumulation_steps = {optimization.accumulation_steps} times batch_norm_groups "
            f"= {optimization.batch_norm_groups} does not divide; choose a smaller batch_size"
        )
    return batch_size
