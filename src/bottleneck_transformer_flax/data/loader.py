"""Batches of images for training and evaluation, in an order that depends on a seed alone."""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from functools import partial

import numpy as np
from jaxtyping import Int32, Int64

from bottleneck_transformer_flax.augmentation.image import Transform
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.batches import Batch, Draw, ReadBatch, bad_indices
from bottleneck_transformer_flax.data.reading_ahead import read_ahead
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.data.workers import (
    check_num_workers,
    limited_num_workers,
    usable_cores,
)
from bottleneck_transformer_flax.errors import ConfigError

_MOST_READER_THREADS = 8
# Workers read a tenth faster than threads, which read hundreds of files while workers start.
FILES_WORTH_A_WORKER = 1000
# Independent streams of random numbers for one seed.
_ORDERS, _AUGMENTATIONS, _CLASSES = 0, 1, 2


def training_batches(
    source: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    balanced: bool = False,
    start_step: int = 0,
    num_workers: int | None = None,
    process_shard: tuple[int, int] = (0, 1),
    bad_images: BadImages | None = None,
) -> Generator[Batch, None, None]:
    """Endless batches, shuffled and augmented anew in every epoch.

    The k-th batch depends only on (source, transform, batch_size, seed, balanced, k): a run that
    starts at ``start_step`` continues exactly as one that was never interrupted, with any number of
    workers. The shards of all processes together are the batch of a single process. An epoch is
    ``len(source) // batch_size`` batches; the images left over differ from epoch to epoch.

    Args:
        source: the images.
        transform: applied to each image, with a generator of random numbers.
        batch_size: images in a batch, of all processes together.
        seed: seed of the order and of the augmentations, in [0, 2**32).
        balanced: whether an epoch has equally many images of every class: those of small classes
            come several times, and large classes need several epochs.
        start_step: number of the first batch, counted from 0 over all epochs.
        num_workers: worker processes, at most one for each core and each batch of an epoch; with 0,
            threads of this process read ahead. By default ``choose_num_workers`` decides. A program
            that starts workers must guard its ``__main__``.
        process_shard: (process index, number of processes): the part of every batch to read.
        bad_images: collects unreadable images; by default the first one is an error.

    Returns:
        A generator, which raises DataError when an image cannot be read and ``bad_images`` does
        not skip it, perhaps before its batch has its turn. Threads and workers end when it is
        closed or dropped.

    Raises:
        ConfigError: when an argument is out of range, ``batch_size`` exceeds the source, or the
            processes cannot share it equally.
    """
    _check_training(source, batch_size, seed, start_step)
    rows = _rows(process_shard, batch_size)
    plain = partial(_plain_order, len(source))
    order = partial(_balanced_order, source.labels) if balanced else plain
    steps_per_epoch = len(source) // batch_size
    read = ReadBatch(source, transform, rows)
    draws = _shuffled(order, steps_per_epoch, batch_size, seed, start_step)
    return _read(draws, read, steps_per_epoch, num_workers, bad_images)


def _check_training(source: ImageSource, batch_size: int, seed: int, start_step: int) -> None:
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, start_step=start_step, seed=seed)
    if seed >= 2**32:
        raise ConfigError(f"seed is {seed}; expected less than 2**32")
    if batch_size > len(source):
        raise ConfigError(
            f"batch_size is {batch_size} but there are only {len(source)} training images; "
            f"choose a batch_size of at most {len(source)}"
        )


def evaluation_batches(
    source: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int | None = None,
    process_shard: tuple[int, int] = (0, 1),
    bad_images: BadImages | None = None,
) -> Generator[Batch, None, None]:
    """Every image once, in order; the last batch is padded to ``batch_size``.

    Arguments and result are as for ``training_batches``.

    Raises:
        ConfigError: when an argument is out of range, or the processes cannot share
            ``batch_size`` equally.
    """
    _check_at_least(1, batch_size=batch_size)
    rows = _rows(process_shard, batch_size)
    draws = (
        Draw(np.arange(start, min(start + batch_size, len(source))), (_AUGMENTATIONS, 0, start))
        for start in range(0, len(source), batch_size)
    )
    read = ReadBatch(source, transform, rows)
    return _read(draws, read, -(-len(source) // batch_size), num_workers, bad_images)


def choose_num_workers(source: ImageSource) -> int:
    """One worker for every thousand files, at most one a core; none for images in memory."""
    if source.native_size is not None:
        return 0
    return min(usable_cores(), len(source) // FILES_WORTH_A_WORKER)


def _plain_order(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    """The order of an epoch's images: each once."""
    return np.random.default_rng((_ORDERS, seed, epoch)).permutation(count)


def _balanced_order(
    labels: Int32[np.ndarray, " n"], seed: int, epoch: int
) -> Int64[np.ndarray, " n"]:
    """The order of n images, of k classes n / k each, rounded up or down.

    Over the epochs, a class is gone through again and again, each time in a new order: none of its
    images is repeated before all have been drawn.
    """
    drawn = []
    counts = np.unique_counts(labels).counts
    each, left_over = divmod(len(labels), len(counts))
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    for position, images in enumerate(by_class):
        size = each + (position < left_over)
        rounds = range(epoch * size // len(images), -(-(epoch + 1) * size // len(images)))
        orders = [
            np.random.default_rng((_CLASSES, seed, position, number)).permutation(images)
            for number in rounds
        ]
        start = epoch * size - rounds.start * len(images)
        drawn.append(np.concatenate(orders)[start : start + size])
    rng = np.random.default_rng((_ORDERS, seed, epoch))
    return rng.permutation(np.concatenate(drawn))


def _shuffled(
    order: Callable[[int, int], Int64[np.ndarray, " n"]],
    steps_per_epoch: int,
    batch_size: int,
    seed: int,
    start_step: int,
) -> Iterator[Draw]:
    """The draws from ``start_step`` on: an order for each epoch, cut into whole batches."""
    start_epoch, start_in_epoch = divmod(start_step, steps_per_epoch)
    for epoch in itertools.count(start_epoch):
        images = order(seed, epoch)
        for step in range(start_in_epoch if epoch == start_epoch else 0, steps_per_epoch):
            indices = images[step * batch_size : (step + 1) * batch_size]
            yield Draw(indices, (_AUGMENTATIONS, seed, epoch * steps_per_epoch + step))


def _read(
    draws: Iterator[Draw],
    read: ReadBatch,
    num_batches: int,
    num_workers: int | None,
    bad_images: BadImages | None,
) -> Generator[Batch, None, None]:
    """Read the batches drawn, and report every unreadable image to ``bad_images``.

    Args:
        draws: the batches to read.
        read: reads a batch.
        num_batches: number of batches in which every image comes once.
        num_workers: worker processes that are asked for, if any number is.
        bad_images: collects unreadable images; by default the first one is an error.
    """
    check_num_workers(num_workers)
    source, bad_images = read.source, bad_images or BadImages(skip=False)
    if num_workers is None:
        num_workers = min(choose_num_workers(source), num_batches)
    num_workers = limited_num_workers(num_workers, num_batches, "batch")
    # Reading images in memory is all Python: threads would wait for each other.
    in_memory = source.native_size is not None
    batches = read_ahead(
        draws,
        read,
        num_workers=num_workers,
        num_threads=1 if in_memory else min(usable_cores(), _MOST_READER_THREADS),
        on_batch=lambda batch: bad_images.meet(source, bad_indices(batch)),
    )
    return _checked(batches, source, bad_images)


def _checked(
    batches: Generator[Batch, None, None], source: ImageSource, bad_images: BadImages
) -> Generator[Batch, None, None]:
    with contextlib.closing(batches):
        for batch in batches:
            for index in bad_indices(batch):
                bad_images.add(source, index)
            yield batch
            bad_images.raise_met()


def _rows(process_shard: tuple[int, int], batch_size: int) -> slice:
    """The rows of a batch that a process reads."""
    process, processes = process_shard
    if not 0 <= process < processes:
        raise ConfigError(
            f"process_shard is {process_shard}; expected this process's index, counted from 0, and "
            "the number of processes"
        )
    if batch_size % processes:
        raise ConfigError(
            f"batch_size is {batch_size}, which {processes} processes cannot share equally; "
            f"choose a multiple of {processes}"
        )
    size = batch_size // processes
    return slice(process * size, (process + 1) * size)


def _check_at_least(lowest: int, **values: int) -> None:
    for name, value in values.items():
        if value < lowest:
            raise ConfigError(f"{name} is {value}; expected at least {lowest}")
