"""Starting points for training, by name; every option overrides them.

Those called "paper-…" follow arXiv 2101.11605; a note beside each says what the paper leaves open.
The others are this project's own, found by experiment.
"""

import dataclasses

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.errors import ConfigError, unknown_name
from bottleneck_transformer_flax.training.config import (
    FineTuningOptions,
    ModelOptions,
    OptimizerOptions,
    RunConfig,
)

EMBEDDED_QUICK = RunConfig(
    epochs=32,
    batch_size=128,
    save_every_epochs=4,
    optimization=OptimizerOptions(
        optimizer="sgd",
        learning_rate=0.2,
        warmup_epochs=2.0,
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema_decay=0.99,
    ),
    augmentation=Augmentation(crop="resized", min_scale=0.7, flip=False),
)
"""The data set in the package, in minutes on two cores."""

SMALL_IMAGES = RunConfig(
    variant="botnet11",
    epochs=8,
    batch_size=128,
    optimization=OptimizerOptions(
        optimizer="muon",
        learning_rate=0.012,
        learning_rate_decay="linear",
        momentum=0.95,
        warmup_epochs=1.0,
        weight_decay=0.015,
        label_smoothing=0.1,
        ema_decay=0.998,
    ),
    augmentation=Augmentation(crop="shift", shift_pixels=2, flip=True),
)
"""Tens of thousands of images of about 32 × 32 pixels, such as Fashion-MNIST or CIFAR."""

IMAGE_FOLDER = RunConfig(
    epochs=50,
    batch_size=64,
    model=ModelOptions(dropout_rate=0.1),
    optimization=OptimizerOptions(
        optimizer="adamw",
        learning_rate=1e-3,
        warmup_epochs=2.0,
        weight_decay=0.05,
        label_smoothing=0.1,
        clip_norm=1.0,
        ema_decay=0.999,
    ),
    augmentation=Augmentation(crop="resized", min_scale=0.25),
)
"""Some hundreds or thousands of photographs, from random weights."""

FINE_TUNING = RunConfig(
    variant=None,
    pretrained="botnet_tiny",
    epochs=20,
    batch_size=16,
    optimization=dataclasses.replace(
        IMAGE_FOLDER.optimization, learning_rate=3e-3, warmup_epochs=1.0, ema_decay=0.99
    ),
    fine_tuning=FineTuningOptions(backbone_rate=0.3),
    augmentation=Augmentation(crop="resized", min_scale=0.35),
)
"""From a pretrained model, on few images or many."""

# The paper gives batch sizes but no learning rate. 0.1 per 256 images, after 5 epochs of warm-up,
# is what ResNets are usually trained with (Goyal et al. 2017, arXiv 1706.02677).
_RATE_OF_AN_IMAGE = 0.1 / 256

PAPER_STANDARD = RunConfig(
    variant="botnet_s1_50",
    epochs=100,
    batch_size=1024,
    optimization=OptimizerOptions(
        optimizer="sgd",
        learning_rate=1024 * _RATE_OF_AN_IMAGE,
        warmup_epochs=5.0,
        nesterov=False,
        weight_decay=1e-4,
    ),
    augmentation=Augmentation(crop="resized", min_scale=0.08),
)
"""The paper's (a): 100 epochs, batch 1024, weight decay 1e-4, crop and flip."""

PAPER_LONGER = PAPER_STANDARD.replace(
    epochs=200,
    batch_size=4096,
    optimization=dataclasses.replace(
        PAPER_STANDARD.optimization,
        learning_rate=4096 * _RATE_OF_AN_IMAGE,
        weight_decay=8e-5,
        label_smoothing=0.1,
    ),
    augmentation=dataclasses.replace(
        PAPER_STANDARD.augmentation, policy="rand", policy_layers=2, policy_magnitude=10.0
    ),
)
"""The paper's (b): 200 epochs, batch 4096, weight decay 8e-5, RandAugment, label smoothing."""

PAPER_SCALED = PAPER_LONGER.replace(
    variant="botnet_t3",
    epochs=350,
    model=ModelOptions(dropout_rate=0.25, stochastic_depth_rate=0.1),
    optimization=dataclasses.replace(
        PAPER_LONGER.optimization, weight_decay=4e-5, ema_decay=0.9999
    ),
    augmentation=dataclasses.replace(PAPER_LONGER.augmentation, policy_magnitude=15.0),
)
"""The paper's (c) for T3 to T7: 350 epochs, RandAugment, dropout, stochastic depth.

The paper gives no other numbers, and says that it follows ResNet-RS, arXiv 2103.07579. There,
regularisation grows with the model (RandAugment 10 to 20, dropout 0.25 to 0.4, stochastic depth 0
to 0.1); these values lie within its ranges.
"""

RECIPES = {
    "paper-standard": PAPER_STANDARD,
    "paper-longer": PAPER_LONGER,
    "paper-scaled": PAPER_SCALED,
    "image-folder": IMAGE_FOLDER,
    "fine-tuning": FINE_TUNING,
    "small-images": SMALL_IMAGES,
    "embedded-quick": EMBEDDED_QUICK,
}

RECIPES_BY_DATA = {"embedded": "embedded-quick", "fashion-mnist": "small-images"}
"""The recipes for data sets that have a name; the images of others decide (see ``defaults``)."""


def recipe_for(data: str, pretrained: str | None = None) -> str:
    """Name of the recipe for a data set by its name alone, with a folder taken for photographs."""
    return "fine-tuning" if pretrained is not None else RECIPES_BY_DATA.get(data, "image-folder")


def default_config(
    data: str, pretrained: str | None = None, recipe: str | None = None
) -> RunConfig:
    """The recipe for a data set, given by name or folder, and for a pretrained model.

    Raises:
        ConfigError: for an unknown recipe, with the nearest one.
    """
    recipe = recipe_for(data, pretrained) if recipe is None else recipe
    if recipe not in RECIPES:
        raise ConfigError(unknown_name("recipe", recipe, RECIPES))
    config = RECIPES[recipe].replace(data=data)
    return config if pretrained is None else config.replace(variant=None, pretrained=pretrained)
