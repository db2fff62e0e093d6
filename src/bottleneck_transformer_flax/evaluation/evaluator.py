"""One pass of a model over a labelled set of images."""

import contextlib
from collections.abc import Callable, Generator
from functools import partial

import numpy as np

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.batches import Batch
from bottleneck_transformer_flax.data.loader import evaluation_batches
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.distributed import DataParallel
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.evaluation.predictions import Predictions, digest
from bottleneck_transformer_flax.inference.engine import NO_LABEL, Engine, Scores
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.surgery import Variables
from bottleneck_transformer_flax.preprocessing import Preprocessing


class Evaluator:
    """Scores one model; compiled once, however often it is called."""

    def __init__(
        self,
        model: BoTNet,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        num_workers: int | None = None,
        keep_logits: bool = False,
        devices: DataParallel | None = None,
    ) -> None:
        """Compile nothing yet.

        Args:
            model: network to score.
            preprocessing: how images become its input, and logits probabilities.
            batch_size: images computed together, in all processes; rounded up to a multiple of
                the devices. The predictions don't depend on it.
            num_workers: processes that read images, as for ``evaluation_batches``.
            keep_logits: whether the predictions hold the logits too, which a temperature is fitted
                to; for 50,000 images and 1,000 classes they take 200 MB.
            devices: the devices to spread each batch over; by default JAX's first device.
        """
        if devices is not None:
            batch_size = devices.num_devices * -(-batch_size // devices.num_devices)
        self.batch_size = batch_size
        self._num_workers = num_workers
        self._devices = devices
        self._preprocessing = preprocessing
        self._num_classes = model.config.num_classes
        top_k = min(5, self._num_classes)
        self._engine = Engine(
            model, preprocessing, top_k=top_k, keep_logits=keep_logits, devices=devices
        )

    def __call__(
        self,
        variables: Variables,
        source: ImageSource,
        *,
        bad_images: BadImages | None = None,
        on_batch: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Predictions | None:
        """Score every image of ``source`` once; all processes end with the same predictions.

        Args:
            variables: the model's parameters and batch statistics.
            source: images, labelled with the model's classes.
            bad_images: whether images that cannot be read are left out, and then count nowhere; by
                default the first one is an error.
            on_batch: called after every batch with the number of images done.
            should_stop: asked before every batch; true in any process stops them all.

        Returns:
            The predictions; None where ``should_stop`` ended the pass.

        Raises:
            DataError: when there are no images, or one cannot be read and is not to be left out.
        """
        return evaluate(
            partial(self._engine, variables),
            source,
            self._preprocessing,
            num_classes=self._num_classes,
            batch_size=self.batch_size,
            num_workers=self._num_workers,
            devices=self._devices,
            bad_images=bad_images,
            on_batch=on_batch,
            should_stop=should_stop,
        )


def evaluate(
    score: Callable[[np.ndarray, np.ndarray], Scores],
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    num_classes: int,
    batch_size: int,
    num_workers: int | None = None,
    devices: DataParallel | None = None,
    bad_images: BadImages | None = None,
    on_batch: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Predictions | None:
    """Score every image of a source once, whatever computes the scores.

    Args:
        score: from uint8 images of the model's size and their labels to their scores.
        source: images, labelled with the model's classes.
        preprocessing: how images become the model's input.
        num_classes: number of the model's classes.
        batch_size: images computed together, in all processes.
        num_workers: as for ``Evaluator``.
        devices: as for ``Evaluator``.
        bad_images: as for ``Evaluator.__call__``, and so are the other arguments, the result and
            the errors.
        on_batch: see there.
        should_stop: see there.
    """
    scores: list[Scores] = []
    batches = batches_of(
        source,
        preprocessing,
        batch_size=batch_size,
        num_workers=num_workers,
        devices=devices,
        bad_images=bad_images,
        on_batch=on_batch,
    )
    with contextlib.closing(batches):
        for batch in batches:
            if should_stop is not None and _in_any_process(should_stop(), devices):
                return None
            labels = np.where(batch["valid"], batch["label"], NO_LABEL)
            scores.append(score(batch["image"], labels))
    return _predictions(source, scores, num_classes)


def batches_of(
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    num_workers: int | None = None,
    devices: DataParallel | None = None,
    bad_images: BadImages | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Generator[Batch, None, None]:
    """Every image of a source once, as evaluation sees it; ``on_batch`` after each batch's use.

    See ``evaluate`` for the arguments.

    Raises:
        DataError: when there are no images, or one cannot be read and is not to be left out.
    """
    if not len(source):
        raise DataError("there are no images to evaluate; choose a split that has some")
    batches = evaluation_batches(
        source,
        EvaluationTransform(preprocessing),
        batch_size=batch_size,
        num_workers=num_workers,
        process_shard=(0, 1) if devices is None else devices.process_shard,
        bad_images=bad_images,
    )
    with contextlib.closing(batches):
        for count, batch in enumerate(batches, start=1):
            yield batch
            if on_batch is not None:
                on_batch(min(len(source), count * batch_size))


def _in_any_process(flag: bool, devices: DataParallel | None) -> bool:
    return flag if devices is None else bool(devices.any_process(flag))


def _predictions(source: ImageSource, scores: list[Scores], num_classes: int) -> Predictions:
    columns = zip(*scores, strict=True)
    top_classes, top_probabilities, logits, losses, labels = map(np.concatenate, columns)
    # Batches come in the order of the source, so a row's index is its position there.
    positions = np.flatnonzero(labels != NO_LABEL)
    return Predictions(
        num_classes=num_classes,
        positions=positions.astype(np.int32),
        labels=labels[positions],
        top_classes=top_classes[positions],
        top_probabilities=top_probabilities[positions],
        losses=losses[positions],
        source_digest=digest(source),
        logits=logits[positions] if logits.shape[1] else None,
    )
