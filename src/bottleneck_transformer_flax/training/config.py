"""The options of a training run, as frozen records that check themselves. No jax."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.config_checks import (
    AT_LEAST_0,
    BELOW_1,
    NUM_WORKERS,
    UP_TO_1,
    Check,
    check_fields,
    integer,
    number,
    or_none,
)
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.execution import FrozenPart
from bottleneck_transformer_flax.models.variants import get_variant
from bottleneck_transformer_flax.preprocessing import Interpolation, checked_image_size
from bottleneck_transformer_flax.training.earlier_records import updated

OptimizerName = Literal["sgd", "adamw", "muon"]
DecayShape = Literal["cosine", "linear"]
ComputeDtype = Literal["float32", "bfloat16"]
ClassBalance = Literal["none", "weights", "sampling"]

_PATH = Check(lambda value: isinstance(value, str), "a name or a path")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a run changes in its variant's architecture.

    Attributes:
        dropout_rate: Dropout rate of the features that the classifier reads.
        stochastic_depth_rate: Probability of skipping the last block for an image; it grows from 0
            over the blocks.
        dtype: Dtype of the computation; parameters are float32 either way.
    """

    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    dtype: ComputeDtype = "float32"

    def __post_init__(self) -> None:
        """Check every value."""
        check_fields(self, dropout_rate=BELOW_1, stochastic_depth_rate=BELOW_1)


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How gradients update the parameters.

    Attributes:
        optimizer: Optimizer. Muon wants a learning rate and weight decay of AdamW's order of
            magnitude; with a momentum of 0.95 it needs fewer epochs on small images.
        learning_rate: Learning rate at the peak, after warm-up, for the whole batch.
        learning_rate_decay: Shape of the learning rate's way from there to zero.
        warmup_epochs: Epochs over which the learning rate grows linearly from zero; at most half of
            the run.
        momentum: Momentum of SGD and Muon.
        nesterov: Use Nesterov momentum in SGD and Muon.
        weight_decay: Weight decay of all parameters except norms and biases.
        label_smoothing: Fraction of the target spread evenly over the classes.
        clip_norm: Largest global norm of the gradient; larger gradients are scaled down to it.
        accumulation_steps: Micro-batches that each batch is split into, computed one after the
            other to save memory.
        remat: Rematerialise blocks in the backward pass: under half the memory, a fifth more time.
        ema_decay: Decay per step of the exponential moving average of the variables, which is then
            what is scored and saved.
        batch_norm_groups: Parts of each batch over which batch norms compute separate statistics.
            One per device saves communication; the running statistics are the mean over the parts.
        shard_parameters: Shard parameters, averages and moments over the devices instead of
            replicating them: less memory, more communication, the same result.
    """

    optimizer: OptimizerName = "sgd"
    learning_rate: float = 0.1
    learning_rate_decay: DecayShape = "cosine"
    warmup_epochs: float = 1.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    accumulation_steps: int = 1
    remat: bool = False
    ema_decay: float | None = None
    batch_norm_groups: int = 1
    shard_parameters: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        check_fields(
            self,
            learning_rate=number("above 0", lambda value: 0 < value < math.inf),
            warmup_epochs=AT_LEAST_0,
            momentum=BELOW_1,
            weight_decay=AT_LEAST_0,
            label_smoothing=BELOW_1,
            clip_norm=or_none(number("above 0", lambda value: value > 0)),
            ema_decay=or_none(number("in (0, 1)", lambda value: 0 < value < 1)),
        )


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    """Which parts of a pretrained model change, and how fast.

    Attributes:
        frozen_through: Freeze the network from its input through this part.
        backbone_rate: Learning rate of all parts but the head, as a fraction of the head's; at 0
            the parameters stay, while batch statistics still move unless they are frozen too.
        frozen_batch_stats: Keep the pretrained batch statistics, and normalise with them in
            training.
    """

    frozen_through: FrozenPart | None = None
    backbone_rate: float = 1.0
    frozen_batch_stats: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        check_fields(self, backbone_rate=number("in [0, 1]", lambda value: 0 <= value <= 1))


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How images reach the model.

    Attributes:
        image_size: Height and width of the model's input; by default those of the pretrained model,
            of the data, or of the variant, in this order.
        eval_crop: Fraction of the resized image that the centre crop keeps in evaluation; by
            default the pretrained model's, or 0.875, and everything where all images have one size.
        interpolation: Resampling filter; by default the pretrained model's, or bicubic.
        validation_fraction: Fraction of the training images held out for validation where the data
            has no validation part; 0 trains on all images and keeps the last model only.
        split_seed: Seed that chooses the images held out.
        num_workers: Image reading processes, at most one per core; by default one per 1000 files.
        skip_bad_images: Leave out unreadable images and list them at the end, instead of stopping
            at the first.
        max_pixels: Refuse images with more pixels than this; by default 178,956,970.
        progressive_phases: Phases of equally many epochs over which the training images grow in
            equal steps to image_size; 1 for one size throughout.
        progressive_start: Side of the training images in the first of several phases, as a fraction
            of image_size.
    """

    image_size: tuple[int, int] | None = None
    eval_crop: float | None = None
    interpolation: Interpolation | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    num_workers: int | None = None
    skip_bad_images: bool = False
    max_pixels: int | None = None
    progressive_phases: int = 1
    progressive_start: float = 0.5

    def __post_init__(self) -> None:
        """Turn a list (JSON has no tuples) into a tuple, then check every value."""
        if self.image_size is not None:
            object.__setattr__(self, "image_size", checked_image_size(self.image_size))
        check_fields(
            self,
            eval_crop=or_none(UP_TO_1),
            validation_fraction=number("in [0, 1), such as 0.1", lambda value: 0 <= value < 1),
            split_seed=Check(lambda value: isinstance(value, int), "an integer"),
            num_workers=NUM_WORKERS,
            progressive_start=UP_TO_1,
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every option of a training run.

    Attributes:
        data: Images to train on: "embedded", "fashion-mnist", or a folder: with a folder per class,
            with train/ and val/ or test/ of such folders, or from `botnet data pack`.
        variant: Model variant, as `botnet variants` lists them; None where a pretrained model
            decides.
        pretrained: Model to start from, with a new head for the data's classes: a pretrained
            directory, a run, a repository of the Hugging Face hub, or botnet_tiny.
        epochs: Passes over the training images; with --resume, those of the whole run.
        max_steps: Most optimizer steps; the last epoch ends with them, and the learning-rate
            schedule too.
        patience: End the run after this many validations in a row without a better model; the
            learning-rate schedule still spans all epochs.
        batch_size: Images per optimizer step, over all devices.
        class_balance: Make rare classes count as much as frequent ones: "weights" weights each
            image's loss by its class, "sampling" draws equally many images of each class.
        seed: Seed of the initial parameters, the order of images, and all randomness in training.
        evaluate_every_epochs: Epochs between validations; the last epoch is always validated.
        calibration: Calibrate probabilities by a temperature fitted on the validation images.
        save_every_epochs: Epochs between checkpoints. A checkpoint that falls due while the one
            before it is still being written is left out, except after the last epoch.
    """

    data: str = "embedded"
    variant: str | None = "botnet_tiny"
    pretrained: str | None = None
    epochs: int = 90
    max_steps: int | None = None
    patience: int | None = None
    batch_size: int = 256
    class_balance: ClassBalance = "none"
    seed: int = 0
    evaluate_every_epochs: int = 1
    save_every_epochs: int = 1
    calibration: bool = True
    model: ModelOptions = field(default_factory=ModelOptions)
    optimization: OptimizerOptions = field(default_factory=OptimizerOptions)
    fine_tuning: FineTuningOptions = field(default_factory=FineTuningOptions)
    input: InputOptions = field(default_factory=InputOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Check every value, and those of different records against each other."""
        check_fields(
            self,
            data=_PATH,
            pretrained=or_none(_PATH),
            seed=integer("in [0, 2**32)", lambda value: 0 <= value < 2**32),
        )
        images = self.batch_size // self.optimization.accumulation_steps
        check_fields(
            self.optimization,
            accumulation_steps=Check(
                lambda value: self.batch_size % value == 0,
                f"a divisor of batch_size = {self.batch_size}",
            ),
            batch_norm_groups=Check(
                lambda value: images % value == 0,
                f"a divisor of batch_size / accumulation_steps = {images}",
            ),
        )
        if (phases := self.input.progressive_phases) > self.epochs:
            raise ConfigError(
                f"progressive_phases is {phases}; expected at most epochs = {self.epochs}"
            )
        self._check_start()

    def _check_start(self) -> None:
        if (self.pretrained is None) == (self.variant is None):
            raise ConfigError(
                f"variant is {self.variant} and pretrained is {self.pretrained}; expected one of "
                "them, since either decides the model"
            )
        if self.variant is None:
            return
        get_variant(self.variant)
        given, default = vars(self.fine_tuning), vars(FineTuningOptions())
        changed = [f"{name} is {given[name]!r}" for name in given if given[name] != default[name]]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} without a pretrained model; name one with --pretrained, or "
                "leave it out"
            )

    def replace(self, **changes: Any) -> "RunConfig":
        """The same run with some fields changed."""
        return dataclasses.replace(self, **changes)

    def flattened(self) -> dict[str, Any]:
        """Every value by its path, such as "optimization.learning_rate"."""
        flat: dict[str, Any] = {}
        for name, value in self.to_json().items():
            if isinstance(value, dict):
                flat |= {f"{name}.{key}": inner for key, inner in value.items()}
            else:
                flat[name] = value
        return flat

    def differences(self, other: "RunConfig") -> dict[str, Any]:
        """The other run's value by path wherever it differs from this run's."""
        ours = self.flattened()
        return {path: value for path, value in other.flattened().items() if value != ours[path]}

    def to_json(self) -> dict[str, Any]:
        """The run as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunConfig":
        """The run that ``to_json`` wrote, at this or an earlier commit; else a ConfigError."""
        parts = {
            "model": ModelOptions,
            "optimization": OptimizerOptions,
            "fine_tuning": FineTuningOptions,
            "input": InputOptions,
            "augmentation": Augmentation,
        }
        try:
            values = updated(values)
            return cls(**(values | {name: part(**values[name]) for name, part in parts.items()}))
        except (TypeError, KeyError) as error:
            raise ConfigError(f"this is no record of a run of this version: {error}") from error
