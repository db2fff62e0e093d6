"""Starting points for training, chosen by the data; every option overrides them.

These are this project's own, found by experiment, and not the paper's.
"""

import dataclasses

from bottleneck_transformer_flax.data.transforms import Augmentation
from bottleneck_transformer_flax.training.config import (
    FineTuningOptions,
    InputOptions,
    ModelOptions,
    OptimizerOptions,
    RunConfig,
)

SMALL_IMAGES = RunConfig(
    epochs=32,
    batch_size=128,
    save_every_epochs=4,
    optimization=OptimizerOptions(
        optimizer="sgd",
        learning_rate=0.2,
        warmup_epochs=2,
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema_decay=0.99,
    ),
    augmentation=Augmentation(crop="resized", min_scale=0.7, flip=False),
)

IMAGE_FOLDER = RunConfig(
    epochs=50,
    batch_size=64,
    model=ModelOptions(dropout_rate=0.1),
    input=InputOptions(),
    optimization=OptimizerOptions(
        optimizer="adamw",
        learning_rate=1e-3,
        warmup_epochs=2,
        weight_decay=0.05,
        label_smoothing=0.1,
        clip_norm=1.0,
        ema_decay=0.999,
    ),
    augmentation=Augmentation(crop="resized", min_scale=0.25),
)


FINE_TUNING = RunConfig(
    variant=None,
    pretrained="botnet_tiny",
    epochs=20,
    batch_size=16,
    optimization=dataclasses.replace(
        IMAGE_FOLDER.optimization, learning_rate=3e-3, warmup_epochs=1, ema_decay=0.99
    ),
    fine_tuning=FineTuningOptions(backbone_rate=0.3),
    augmentation=Augmentation(crop="resized", min_scale=0.35),
)


def default_config(data: str, pretrained: str | None = None) -> RunConfig:
    """The starting point for a data set, by its name or folder, and for a pretrained model."""
    if pretrained is not None:
        return FINE_TUNING.replace(data=data, pretrained=pretrained)
    small = data in ("embedded", "fashion-mnist")
    return SMALL_IMAGES.replace(data=data) if small else IMAGE_FOLDER.replace(data=data)
