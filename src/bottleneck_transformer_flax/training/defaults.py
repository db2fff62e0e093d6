"""Defaults that fit a data set: recipe, model and image size, chosen from a look at its images."""

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.decoding import read_header
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.models.variants import Variant, get_variant
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.recipes import RECIPES

SAMPLED_IMAGES = 64
SMALL_SIDE = 64
"""Longest side of a small image in pixels; larger ones count as photographs."""
FEW_PHOTOGRAPHS, MANY_PHOTOGRAPHS = 10_000, 200_000
"""Training images below which a small model is enough, and from which the paper's recipe fits."""

_PHOTOGRAPH_SIDE = 128
_FEWEST_POSITIONS = 4
_FEWEST_STEPS, _FEWEST_TUNING_STEPS, _MOST_EPOCHS = 2000, 500, 300
_FEWEST_STEPS_PER_EPOCH, _SMALLEST_BATCH = 10, 16
_MOST_VALIDATIONS = 100
_LOWEST_DECAY = 0.5
# The paper's 100 epochs of ImageNet.
_MOST_IMAGES = 128_000_000


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """What the defaults of a run are chosen from.

    Attributes:
        num_images: number of training images.
        num_classes: number of classes.
        sizes: (height, width) in pixels of the images of a sample, without the unreadable ones.
        grey: whether all of these have a single channel.
    """

    num_images: int
    num_classes: int
    sizes: tuple[tuple[int, int], ...]
    grey: bool = False

    @property
    def usual_size(self) -> tuple[int, int]:
        """(height, width) of the median image."""
        # An unreadable sample says nothing; most folders hold photographs.
        height, width = np.median(self.sizes or [(256, 256)], axis=0).astype(int).tolist()
        return height, width


class Choice(NamedTuple):
    """Defaults, and why they were chosen.

    Attributes:
        recipe: name of the recipe that they come from.
        config: the recipe, fitted to the data.
        reason: why, in one line; empty where a name decided.
        needs_pretrained: whether trained weights would be a far better start.
    """

    recipe: str
    config: RunConfig
    reason: str = ""
    needs_pretrained: bool = False


def summarize(source: ImageSource) -> DataSummary:
    """Read the headers of up to 64 training images, spread evenly over the source."""
    count = min(len(source), SAMPLED_IMAGES)
    headers = []
    for index in np.linspace(0, len(source) - 1, count).astype(int).tolist():
        with contextlib.suppress(DataError):
            headers.append(read_header(source.content(index), source.describe(index)))
    return DataSummary(
        num_images=len(source),
        num_classes=len(source.class_names),
        sizes=tuple(header.size for header in headers),
        grey=bool(headers) and all(header.grey for header in headers),
    )


def choose_defaults(
    data: DataSummary,
    variant: str | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> Choice:
    """The recipe that fits a data set, with the model, image size and number of steps for it.

    Args:
        data: what is known of the images.
        variant: name of the model; by default, the data decides.
        epochs: passes over the training images; by default, as many as the data needs.
        batch_size: images per step; by default the recipe's, or fewer.
    """
    small = max(data.usual_size) <= SMALL_SIDE
    few = not small and data.num_images < FEW_PHOTOGRAPHS
    if small:
        recipe, model, why = "small-images", "botnet11", "small images"
    elif few:
        recipe, model, why = "image-folder", "botnet_tiny", "few photographs"
    elif data.num_images < MANY_PHOTOGRAPHS:
        recipe, model, why = "image-folder", "botnet26t_256", "enough for a larger model"
    else:
        recipe, model, why = "paper-standard", "botnet_s1_50", "enough for the paper's recipe"
    chosen = get_variant(variant or model)
    image_size = _image_size(data.usual_size, chosen, small=small)
    config = _fitted(RECIPES[recipe], data, _FEWEST_STEPS, epochs, batch_size)
    whole = small or set(data.sizes) == {image_size}
    config = config.replace(
        variant=chosen.name,
        input=dataclasses.replace(
            config.input, image_size=image_size, eval_crop=1.0 if whole else None
        ),
    )
    return Choice(recipe, config, _reason(data, why), few)


def choose_fine_tuning(
    data: DataSummary,
    pretrained: str,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> Choice:
    """The recipe that starts from trained weights, with the number of steps that fits a data set.

    Args:
        data: what is known of the images.
        pretrained: the trained model, which decides the image size.
        epochs, batch_size: as for ``choose_defaults``.
    """
    config = _fitted(RECIPES["fine-tuning"], data, _FEWEST_TUNING_STEPS, epochs, batch_size)
    config = config.replace(variant=None, pretrained=pretrained)
    return Choice("fine-tuning", config, _reason(data, "fine-tuning"))


def _image_size(size: tuple[int, int], variant: Variant, *, small: bool) -> tuple[int, int]:
    """Height and width of the model's input for images of a usual size.

    Small images keep theirs, unless the model would attend over hardly any positions. Photographs
    become squares, or panoramas of as many pixels where one side is twice the other.
    """
    stride = variant.config.total_stride
    large_enough = min(size) > (_FEWEST_POSITIONS - 1) * stride
    if small and large_enough:
        return size
    side = min(*size, max(variant.size, _PHOTOGRAPH_SIDE)) if large_enough else variant.size
    ratio = min(max(size[0] / size[1], 1 / 4), 4.0)
    stretch = 1.0 if 1 / 2 < ratio < 2 else math.sqrt(ratio)
    height, width = (
        stride * max(1, round(pixels / stride)) for pixels in (side * stretch, side / stretch)
    )
    return height, width


def _fitted(
    recipe: RunConfig,
    data: DataSummary,
    fewest_steps: int,
    epochs: int | None,
    batch_size: int | None,
) -> RunConfig:
    """The recipe with more epochs and smaller batches for few images, and fewer epochs for many.

    The moving average follows: it must forget the random start within the run. Grey images are not
    mirrored: they may show characters.
    """
    num_images = data.num_images
    if batch_size is None:
        batch_size = recipe.batch_size
        while batch_size > _SMALLEST_BATCH and num_images < _FEWEST_STEPS_PER_EPOCH * batch_size:
            batch_size //= 2
    steps_per_epoch = max(1, num_images // batch_size)
    if epochs is None:
        epochs = max(recipe.epochs, min(_MOST_EPOCHS, math.ceil(fewest_steps / steps_per_epoch)))
        epochs = min(epochs, max(recipe.epochs // 10, _MOST_IMAGES // num_images, 1))
    every = math.ceil(epochs / _MOST_VALIDATIONS)
    decay = recipe.optimization.ema_decay
    if decay is not None:
        forgotten = math.floor(1000 - 5000 / (epochs * steps_per_epoch)) / 1000
        decay = min(decay, max(_LOWEST_DECAY, forgotten))
    return recipe.replace(
        epochs=epochs,
        batch_size=batch_size,
        evaluate_every_epochs=every,
        save_every_epochs=every,
        optimization=dataclasses.replace(recipe.optimization, ema_decay=decay),
        augmentation=dataclasses.replace(
            recipe.augmentation, flip=recipe.augmentation.flip and not data.grey
        ),
    )


def _reason(data: DataSummary, why: str) -> str:
    """The data in numbers, and what follows from them."""
    images = f"{data.num_images:,} training images in {data.num_classes:,} classes"
    if not data.sizes:
        return f"{images}, none of the sampled ones readable: treated as {why}"
    about = "" if len(set(data.sizes)) == 1 else "about "
    height, width = data.usual_size
    flip = "; grey, so none are mirrored: they may show characters" if data.grey else ""
    return f"{images}, {about}{height} × {width} pixels: {why}{flip}"
