"""Which images a model takes for another class, the ones it is surest of first."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.axes import Array, Float, UInt8
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.loader import evaluation_batches
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.models.botnet import BoTNet, classify
from bottleneck_transformer_flax.models.surgery import Variables
from bottleneck_transformer_flax.preprocessing import Preprocessing


class Mistake(NamedTuple):
    """An image that is taken for another class.

    Attributes:
        position: of the image in the source.
        true_class: its label.
        predicted_class: the class with the highest probability.
        probability: of that class, in [0, 1].
    """

    position: int
    true_class: int
    predicted_class: int
    probability: float


class Mistakes(NamedTuple):
    """What is taken for what.

    Attributes:
        confusion: number of images; rows are true classes, columns predicted ones.
        most_confident: mistakes, the most probable first; the earlier image among equals.
    """

    confusion: Int[np.ndarray, "classes classes"]
    most_confident: tuple[Mistake, ...]


def find_mistakes(
    model: BoTNet,
    variables: Variables,
    preprocessing: Preprocessing,
    source: ImageSource,
    *,
    count: int,
    batch_size: int,
    bad_images: BadImages,
    num_workers: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Mistakes:
    """Classify every image of a source once and keep the mistakes that the model is surest of.

    Args:
        model: the network.
        variables: its parameters and batch statistics.
        preprocessing: how images become its input.
        source: images, labelled with the model's classes.
        count: mistakes to keep, at most.
        batch_size: images computed together.
        bad_images: decides about images that cannot be read; left out, they count nowhere.
        num_workers: processes that read images, as for ``evaluation_batches``.
        on_batch: called after every batch with the number of images done.

    Raises:
        DataError: when an image cannot be read and is not to be left out.
    """

    @jax.jit
    def predict(
        variables: Variables, images: UInt8[Array, "b h w c"]
    ) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
        probabilities = jax.nn.softmax(classify(model, preprocessing, variables, images))
        return jnp.argmax(probabilities, axis=-1), jnp.max(probabilities, axis=-1)

    num_classes = model.config.num_classes
    confusion = np.zeros((num_classes, num_classes), np.int64)
    mistakes: list[Mistake] = []
    done = 0
    transform = EvaluationTransform(preprocessing)
    for batch in evaluation_batches(
        source, transform, batch_size=batch_size, num_workers=num_workers
    ):
        bad_images.check(batch, source)
        predicted, probability = map(np.asarray, predict(variables, batch["image"]))
        np.add.at(confusion, (batch["label"][batch["valid"]], predicted[batch["valid"]]), 1)
        wrong = batch["valid"] & (predicted != batch["label"])
        columns = (batch["index"], batch["label"], predicted, probability)
        rows = zip(*(column[wrong].tolist() for column in columns), strict=True)
        mistakes += [Mistake(*row) for row in rows]
        # Equals keep their order.
        mistakes = sorted(mistakes, key=lambda mistake: -mistake.probability)[:count]
        done = min(len(source), done + batch_size)
        if on_batch is not None:
            on_batch(done)
    return Mistakes(confusion, tuple(mistakes))
