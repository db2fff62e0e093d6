"""Batches of images for training and evaluation, in an order that depends on a seed alone."""

import contextlib
import itertools
from collections.abc import Generator, Iterator

import numpy as np

from bottleneck_transformer_flax.augmentation.image import Transform
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.batches import Batch, Draw, ReadBatch, bad_indices
from bottleneck_transformer_flax.data.reading_ahead import read_ahead
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.data.workers import check_num_workers, usable_cores
from bottleneck_transformer_flax.errors import ConfigError

_MOST_READER_THREADS = 8
# Workers read a tenth faster than threads, which read hundreds of files while workers start.
FILES_WORTH_A_WORKER = 1000
# Independent streams of random numbers for one seed.
_ORDERS, _AUGMENTATIONS = 0, 1


def training_batches(
    source: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int | None = None,
    process_shard: tuple[int, int] = (0, 1),
    bad_images: BadImages | None = None,
) -> Generator[Batch, None, None]:
    """Endless batches, shuffled and augmented anew in every epoch.

    The k-th batch depends only on (source, transform, batch_size, seed, k): a run that starts at
    ``start_step`` continues exactly as one that was never interrupted, with any number of workers.
    The shards of all processes together are the batch of a single process. An epoch is
    ``len(source) // batch_size`` batches; the images left over differ from epoch to epoch.

    Args:
        source: the images.
        transform: applied to each image, with a generator of random numbers.
        batch_size: images in a batch, of all processes together.
        seed: seed of the order and of the augmentations, in [0, 2**32).
        start_step: number of the first batch, counted from 0 over all epochs.
        num_workers: worker processes; with 0, threads of this process read ahead. By default
            ``choose_num_workers`` decides. A program that starts workers must guard its
            ``__main__``.
        process_shard: (process index, number of processes): the part of every batch to read.
        bad_images: collects unreadable images; by default the first one is an error.

    Returns:
        A generator, which raises DataError when an image cannot be read and ``bad_images`` does
        not skip it. Threads and workers end when it is closed or dropped.

    Raises:
        ConfigError: when an argument is out of range, ``batch_size`` exceeds the source, or the
            processes cannot share it equally.
    """
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, start_step=start_step, seed=seed)
    rows = _rows(process_shard, batch_size)
    if seed >= 2**32:
        raise ConfigError(f"seed is {seed}; expected less than 2**32")
    if batch_size > len(source):
        raise ConfigError(
            f"batch_size is {batch_size} but there are only {len(source)} training images; "
            f"choose a batch_size of at most {len(source)}"
        )
    draws = _shuffled(len(source), batch_size, seed, start_step)
    return _read(draws, ReadBatch(source, transform, rows), num_workers, bad_images)


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
    return _read(draws, ReadBatch(source, transform, rows), num_workers, bad_images)


def choose_num_workers(source: ImageSource) -> int:
    """One worker for every thousand files, at most one a core; none for images in memory."""
    if source.native_size is not None:
        return 0
    return min(usable_cores(), len(source) // FILES_WORTH_A_WORKER)


def _shuffled(count: int, batch_size: int, seed: int, start_step: int) -> Iterator[Draw]:
    """The draws from ``start_step`` on: a permutation for each epoch, cut into whole batches."""
    steps_per_epoch = count // batch_size
    start_epoch, start_in_epoch = divmod(start_step, steps_per_epoch)
    for epoch in itertools.count(start_epoch):
        order = np.random.default_rng((_ORDERS, seed, epoch)).permutation(count)
        for step in range(start_in_epoch if epoch == start_epoch else 0, steps_per_epoch):
            indices = order[step * batch_size : (step + 1) * batch_size]
            yield Draw(indices, (_AUGMENTATIONS, seed, epoch * steps_per_epoch + step))


def _read(
    draws: Iterator[Draw], read: ReadBatch, num_workers: int | None, bad_images: BadImages | None
) -> Generator[Batch, None, None]:
    """Read the batches drawn, and report every unreadable image to ``bad_images``."""
    check_num_workers(num_workers)
    # Reading images in memory is all Python: threads would wait for each other.
    in_memory = read.source.native_size is not None
    batches = read_ahead(
        draws,
        read,
        num_workers=choose_num_workers(read.source) if num_workers is None else num_workers,
        num_threads=1 if in_memory else min(usable_cores(), _MOST_READER_THREADS),
    )
    return _checked(batches, read.source, bad_images or BadImages(skip=False))


def _checked(
    batches: Generator[Batch, None, None], source: ImageSource, bad_images: BadImages
) -> Generator[Batch, None, None]:
    with contextlib.closing(batches):
        for batch in batches:
            for index in bad_indices(batch):
                bad_images.add(source, index)
            yield batch


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
