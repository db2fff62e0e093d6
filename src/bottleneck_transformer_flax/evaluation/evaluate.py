"""Score a model on a set of images."""

from collections.abc import Callable, Generator
from typing import NamedTuple

import jax
import numpy as np
import optax

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.axes import Array, Bool, Float, Int, UInt8
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.batches import Batch
from bottleneck_transformer_flax.data.loader import evaluation_batches
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.distributed import DataParallel
from bottleneck_transformer_flax.evaluation.metrics import ClassificationSums
from bottleneck_transformer_flax.models.botnet import BoTNet, classify
from bottleneck_transformer_flax.models.surgery import Variables
from bottleneck_transformer_flax.preprocessing import Preprocessing


class Scores(NamedTuple):
    """What evaluation reads of a batch: the best classes, best first, and each image's loss.

    Labels, and which images count, come along: of several processes each has read only its share.
    """

    top_classes: Int[Array, "b k"]
    losses: Float[Array, " b"]
    labels: Int[Array, " b"]
    valid: Bool[Array, " b"]


class Evaluator:
    """Scores one model; compiled once, however often it is called."""

    def __init__(
        self,
        model: BoTNet,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        num_workers: int | None = None,
        devices: DataParallel | None = None,
    ) -> None:
        """For a model, its preprocessing, how images are read, and on which devices they are.

        The batch is made a multiple of the devices.
        """
        if devices is not None:
            batch_size = devices.num_devices * -(-batch_size // devices.num_devices)
        self._devices = devices
        self._num_classes = model.config.num_classes
        self._transform = EvaluationTransform(preprocessing)
        self.batch_size = batch_size
        self._num_workers = num_workers

        def score(
            variables: Variables,
            images: UInt8[Array, "b h w c"],
            labels: Int[Array, " b"],
            valid: Bool[Array, " b"],
        ) -> Scores:
            logits = classify(model, preprocessing, variables, images)
            _, top_classes = jax.lax.top_k(logits, min(5, self._num_classes))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            scores = Scores(top_classes, losses, labels, valid)
            if devices is None:
                return scores
            return devices.constrain_replicated(scores)

        self._score = jax.jit(score)

    def __call__(
        self,
        variables: Variables,
        source: ImageSource,
        *,
        bad_images: BadImages,
        on_batch: Callable[[int], None] | None = None,
    ) -> ClassificationSums:
        """Every image of ``source`` once, whatever the batch size.

        Args:
            variables: of the model.
            source: images, labelled with the model's classes.
            bad_images: decides about images that cannot be read; left out, they count nowhere.
            on_batch: called after every batch with the number of images done.

        Raises:
            DataError: when an image cannot be read and is not to be left out.
        """
        sums = ClassificationSums.empty(self._num_classes)
        done = 0
        for batch in self.batches(source):
            bad_images.check(batch, source)
            top_classes, losses, labels, valid = map(np.asarray, self.scores(variables, batch))
            sums = sums.merge(
                ClassificationSums.from_predictions(
                    top_classes, losses, labels, valid, self._num_classes
                )
            )
            done = min(len(source), done + self.batch_size)
            if on_batch is not None:
                on_batch(done)
        return sums

    def batches(self, source: ImageSource) -> Generator[Batch, None, None]:
        """This process's share of every batch of a source, in order."""
        return evaluation_batches(
            source,
            self._transform,
            batch_size=self.batch_size,
            num_workers=self._num_workers,
            process_shard=(0, 1) if self._devices is None else self._devices.process_shard,
        )

    def scores(self, variables: Variables, batch: Batch) -> Scores:
        """Of the images of a batch of all processes."""
        inputs = batch["image"], batch["label"], batch["valid"]
        if self._devices is not None:
            inputs = self._devices.place_batch(inputs)
        scores: Scores = self._score(variables, *inputs)
        return scores
