"""What a run resolves to before it starts."""

from typing import NamedTuple

from bottleneck_transformer_flax.data.sources import Splits, load_splits
from bottleneck_transformer_flax.data.transforms import TrainingTransform
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.cost import abstract_variables, count_parameters
from bottleneck_transformer_flax.models.variants import get_variant
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.config import RunConfig


class Plan(NamedTuple):
    """What a run resolves to, before anything is computed."""

    config: RunConfig
    splits: Splits
    model: BoTNet
    preprocessing: Preprocessing
    transform: TrainingTransform
    parameters: int
    batch_size: int
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs


def make_plan(config: RunConfig) -> Plan:
    """Load the data's listing and resolve everything that depends on it.

    Raises:
        ConfigError: for options that don't fit each other or the data.
        DataError: when the data cannot be used.
    """
    splits = load_splits(
        config.data,
        validation_fraction=config.input.validation_fraction,
        split_seed=config.input.split_seed,
    )
    native_size = splits.train.native_size
    size = config.input.image_size or native_size or get_variant(config.variant).image_size
    preprocessing = Preprocessing(
        size=size,
        crop=1.0 if native_size else config.input.eval_crop,
        interpolation=config.input.interpolation,
    )
    model = BoTNet(config=config.model_config(num_classes=len(splits.train.class_names)))
    batch_size = min(config.batch_size, len(splits.train))
    if batch_size % config.optimization.accumulation_steps:
        raise ConfigError(
            f"batch_size is {config.batch_size} but there are only {batch_size} training images, "
            f"which accumulation_steps = {config.optimization.accumulation_steps} does not divide; "
            "choose a smaller batch_size"
        )
    return Plan(
        config=config,
        splits=splits,
        model=model,
        preprocessing=preprocessing,
        transform=TrainingTransform(preprocessing, config.augmentation),
        parameters=count_parameters(abstract_variables(model, size)),
        batch_size=batch_size,
        steps_per_epoch=max(1, len(splits.train) // batch_size),
    )
