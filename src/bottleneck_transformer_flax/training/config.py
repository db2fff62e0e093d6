"""All that defines a training run, as frozen records: enough to repeat it. No jax."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.execution import FrozenPart
from bottleneck_transformer_flax.models.variants import get_config
from bottleneck_transformer_flax.preprocessing import Interpolation, checked_image_size
from bottleneck_transformer_flax.training.config_checks import (
    ComputeDtype,
    OptimizerName,
    run_problems,
)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a run changes about its variant."""

    dropout_rate: float = 0.0
    """Dropout on the features that the classifier reads."""
    stochastic_depth_rate: float = 0.0
    """Chance that the last block is skipped for an image; it grows from 0 over the blocks."""
    dtype: ComputeDtype = "float32"
    """Of the computation; parameters are float32 either way."""


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How parameters follow gradients."""

    optimizer: OptimizerName = "sgd"
    """How gradients become updates. For muon the learning rate and weight decay are of adamw's
    order, and with a momentum of 0.95 small images take fewer epochs."""
    learning_rate: float = 0.1
    """The peak, after warm-up, for the whole batch; a cosine leads from it to zero."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate grows linearly from zero; at most half of the run."""
    momentum: float = 0.9
    """Of sgd and muon."""
    nesterov: bool = True
    """Whether their momentum looks ahead."""
    weight_decay: float = 1e-4
    """On all parameters but those of norms and biases."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes."""
    clip_norm: float | None = None
    """Largest norm of the gradient of all parameters together."""
    accumulation_steps: int = 1
    """Parts that each batch is computed in, one after the other, to need less memory."""
    remat: bool = False
    """Compute every block again in the backward pass, to need less than half the memory for about
    a fifth more time."""
    ema_decay: float | None = None
    """Decay per step of the averaged variables, which are then the ones scored and saved."""
    batch_norm_groups: int = 1
    """Parts of each batch that batch norms take statistics of apart from each other. One for every
    device spares their communication; the running statistics are the mean of the parts'."""
    shard_parameters: bool = False
    """Keep a part of the parameters, averages and moments on each device instead of all on every
    one, for less memory and more communication; the result is the same."""


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    """What of a pretrained model changes, and how fast."""

    frozen_through: FrozenPart | None = None
    """Keep the network from the images through this part as it was pretrained."""
    backbone_rate: float = 1.0
    """Learning rate of all but the head, as a fraction of the head's; with 0 the parameters stay
    and the batch statistics still move, unless they are frozen too."""
    frozen_batch_stats: bool = False
    """Keep the pretrained statistics of the batch norms, and normalise with them in training."""


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How images reach the model."""

    image_size: tuple[int, int] | None = None
    """Height and width of the model's input; by default those of the pretrained model, or the
    data's own, or the variant's."""
    eval_crop: float | None = None
    """Fraction of the resized image that evaluation's centre crop keeps; by default that of the
    pretrained model, or 0.875, and all of a data set whose images have one size."""
    interpolation: Interpolation | None = None
    """The resampling filter; by default that of the pretrained model, or bicubic."""
    validation_fraction: float = 0.1
    """Fraction of every class held out for validation where the data has no val/ part; with 0 the
    model trains on all images, and none is called the best."""
    split_seed: int = 0
    """Decides which images are held out."""
    num_workers: int | None = None
    """Processes that read images; by default one a core, at most one for every thousand files."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, count and list those met, instead of stopping."""
    progressive_phases: int = 1
    """Parts of the run, of equally many epochs, in which the images grow in equal steps to
    image_size; 1 for one size throughout."""
    progressive_start: float = 0.5
    """Side of the images in the first of several phases, as a fraction of image_size's."""

    def __post_init__(self) -> None:
        """Turn a list (JSON has no tuples) into a tuple."""
        if self.image_size is not None:
            object.__setattr__(self, "image_size", checked_image_size(self.image_size))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run.

    Raises:
        ConfigError: naming each value that is not allowed.
    """

    data: str = "embedded"
    """"embedded", "fashion-mnist", or a folder: of images (train/ with val/, test/ or both, each
    with a folder per class, or a folder per class), or of what `botnet data pack` wrote."""
    variant: str | None = "botnet_tiny"
    """The model; `botnet variants` lists them. None where pretrained says what it is."""
    pretrained: str | None = None
    """Start from this model, with a new head for the data's classes: a pretrained directory, a
    run, a repository of the Hugging Face hub, or botnet_tiny."""
    epochs: int = 90
    """Passes over the training images."""
    batch_size: int = 256
    """Images per step of the optimizer."""
    seed: int = 0
    """Of the initial parameters, the order of images, and all that is random in training."""
    evaluate_every_epochs: int = 1
    """How often the test images are scored; the last epoch always is."""
    save_every_epochs: int = 1
    """How often a checkpoint is written; one that is due while the one before it is still being
    written is left out, but the last epoch always is."""
    model: ModelOptions = field(default_factory=ModelOptions)
    optimization: OptimizerOptions = field(default_factory=OptimizerOptions)
    fine_tuning: FineTuningOptions = field(default_factory=FineTuningOptions)
    input: InputOptions = field(default_factory=InputOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Check what the parts cannot check themselves, all at once."""
        if problems := run_problems(self):
            raise ConfigError("; ".join(problems))
        self._check_start()

    def _check_start(self) -> None:
        """See that it is known what to start from."""
        if self.pretrained is None:
            if self.variant is None:
                raise ConfigError("neither variant nor pretrained is given; expected one of them")
            given = dataclasses.asdict(self.fine_tuning).items()
            defaults = dataclasses.asdict(FineTuningOptions())
            if changed := [f"{name} is {v!r}" for name, v in given if v != defaults[name]]:
                raise ConfigError(
                    f"{', '.join(changed)} without a pretrained model; name one with "
                    "--pretrained, or leave it out"
                )
            self.model_config(get_config(self.variant), num_classes=1)
        elif self.variant is not None:
            raise ConfigError(
                f"variant is {self.variant} beside pretrained {self.pretrained}, which says what "
                "model it is; leave out variant"
            )

    def model_config(self, start: BoTNetConfig, num_classes: int) -> BoTNetConfig:
        """The config of the run's model for this many classes, from what it starts from."""
        return start.replace(num_classes=num_classes, **dataclasses.asdict(self.model))

    def replace(self, **changes: Any) -> "RunConfig":
        """The same run with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The run as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunConfig":
        """The run from what ``to_json`` gave.

        Raises:
            ConfigError: for unknown keys or bad values.
        """
        parts = {
            "model": ModelOptions,
            "optimization": OptimizerOptions,
            "fine_tuning": FineTuningOptions,
            "input": InputOptions,
            "augmentation": Augmentation,
        }
        try:
            if "fine_tuning" not in values:
                values = _as_before_fine_tuning(values)
            built = {name: part(**values[name]) for name, part in parts.items()}
            return cls(**(values | built))
        except (TypeError, KeyError) as error:
            raise ConfigError(f"this is not the record of a run: {error}") from error


def _as_before_fine_tuning(values: dict[str, Any]) -> dict[str, Any]:
    """A run's record from when there was none: it had these two always, and not as a choice."""
    inputs = dict(values["input"])
    if inputs.get("eval_crop") == 0.875:
        inputs["eval_crop"] = None
    if inputs.get("interpolation") == "bicubic":
        inputs["interpolation"] = None
    return values | {"fine_tuning": {}, "input": inputs}
