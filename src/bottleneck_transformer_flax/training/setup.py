"""What a run resolves to before it starts."""

import json
from typing import NamedTuple

from bottleneck_transformer_flax.augmentation.image import TrainingTransform
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained, load_pretrained
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.data.datasets import Splits, load_splits
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import STAGE_NAMES, BoTNetConfig
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.flops import abstract_variables, count_parameters
from bottleneck_transformer_flax.models.variants import find_variant, get_variant
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.config import RunConfig

DEFAULT_CROP = 0.875


class Plan(NamedTuple):
    """What a run resolves to, before anything is computed.

    Attributes:
        config: the run's options.
        splits: the images.
        model: as it is saved and scored.
        model_name: the variant that it is; "custom" for none.
        pretrained: what it starts from, at the run's image size; None for a random start.
        preprocessing: how images become its input.
        parameters: how many it has.
        batch_size: images a step.
        steps_per_epoch: steps.
    """

    config: RunConfig
    splits: Splits
    model: BoTNet
    model_name: str
    pretrained: Pretrained | None
    preprocessing: Preprocessing
    parameters: int
    batch_size: int
    steps_per_epoch: int

    @property
    def scored(self) -> ImageSource | None:
        """The images that are scored: the validation split, or else the test split, if any."""
        splits = self.splits
        return splits.test if splits.validation is None else splits.validation

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

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

    @property
    def start(self) -> str:
        """The network and the preprocessing as JSON, to see whether a run goes on with them."""
        return json.dumps([self.model.config.to_json(), self.preprocessing.to_json()])

    @property
    def keeps_head(self) -> bool:
        """Whether the pretrained head is of the data's own classes, in their order."""
        synsets = imagenet.names_of_synsets()
        names = self.splits.train.class_names
        as_classes = tuple(synsets.get(name, name) for name in names)
        return self.pretrained is not None and self.pretrained.classes in (names, as_classes)

    @property
    def training_model(self) -> BoTNet:
        """The model as it is trained: with what the run freezes frozen."""
        fine_tuning = self.config.fine_tuning
        execution = Execution(
            frozen_through=fine_tuning.frozen_through,
            frozen_batch_stats=fine_tuning.frozen_batch_stats,
            batch_norm_groups=self.config.optimization.batch_norm_groups,
            remat=self.config.optimization.remat,
        )
        return self.model.clone(execution=execution)

    @property
    def part_rates(self) -> dict[str, float]:
        """Of parts of the model, the learning rate as a fraction; see ``make_optimizer``."""
        rate = self.config.fine_tuning.backbone_rate
        final = ("final",) if self.model.config.final_channels else ()
        parts = ("stem", *STAGE_NAMES, *final)
        rates = {} if rate == 1 else dict.fromkeys(parts, rate)
        return rates | dict.fromkeys(self.training_model.execution.frozen_parts, 0.0)


def make_plan(config: RunConfig) -> Plan:
    """Load the data's listing and resolve everything that depends on it.

    Raises:
        ConfigError: for options that don't fit each other or the data.
        DataError: when the data cannot be used.
        CheckpointError: when the pretrained model cannot be loaded.
    """
    splits = load_splits(
        config.data,
        validation_fraction=config.input.validation_fraction,
        split_seed=config.input.split_seed,
    )
    start, preprocessing, pretrained = _start(config, splits.train.native_size)
    model = BoTNet(config=config.model_config(start, num_classes=len(splits.train.class_names)))
    variant = find_variant(model.config)
    batch_size = min(config.batch_size, len(splits.train))
    optimization = config.optimization
    if batch_size % (optimization.accumulation_steps * optimization.batch_norm_groups):
        raise ConfigError(
            f"batch_size is {config.batch_size} but there are only {batch_size} training images, "
            f"which accumulation_steps = {optimization.accumulation_steps} times batch_norm_groups "
            f"= {optimization.batch_norm_groups} does not divide; choose a smaller batch_size"
        )
    plan = Plan(
        config=config,
        splits=splits,
        model=model,
        model_name="custom" if variant is None else variant.name,
        pretrained=pretrained,
        preprocessing=preprocessing,
        parameters=count_parameters(abstract_variables(model, preprocessing.size)),
        batch_size=batch_size,
        steps_per_epoch=max(1, len(splits.train) // batch_size),
    )
    # A shift that is too long for the smallest images is told before anything starts.
    plan.transform(epoch=1)
    return plan


def _start(
    config: RunConfig, native_size: tuple[int, int] | None
) -> tuple[BoTNetConfig, Preprocessing, Pretrained | None]:
    """The model that the run starts from, its preprocessing, and its weights if it has some.

    The preprocessing is what the options say, else that of the weights, else what suits the data.
    """
    if config.pretrained is not None:
        pretrained = load_pretrained(config.pretrained, image_size=config.input.image_size)
        if pretrained.model.config.folded_batch_norm:
            raise ConfigError(
                f"the batch norms of {config.pretrained} are folded into its weights, so it cannot "
                "be trained; name the model that it was folded from"
            )
        start, preprocessing = pretrained.model.config, pretrained.preprocessing
    else:
        variant = get_variant(str(config.variant))
        pretrained, start = None, variant.config
        preprocessing = Preprocessing(size=native_size or variant.image_size, crop=DEFAULT_CROP)
    if native_size:
        preprocessing = preprocessing.replace(crop=1.0)
    options = {
        "size": config.input.image_size,
        "crop": config.input.eval_crop,
        "interpolation": config.input.interpolation,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return start, preprocessing.replace(**given), pretrained
