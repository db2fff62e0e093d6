"""Batches of images for training and evaluation, read ahead by threads or worker processes."""

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypedDict

import grain
import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt8

from bottleneck_transformer_flax.data.reading_ahead import read_ahead
from bottleneck_transformer_flax.data.sources import ImageSource
from bottleneck_transformer_flax.data.transforms import Transform
from bottleneck_transformer_flax.errors import ConfigError, DataError

# A worker process takes seconds to start: as long as it takes threads to read this many.
_FILES_WORTH_A_WORKER = 1000
# A tenth of the time that an image takes is Python's, and only one thread at a time runs Python.
_CORES_FOR_THREADS = 4


class Batch(TypedDict):
    """Images of one size with their labels.

    Keys:
        image: RGB in [0, 255]; zeros for padding. In the place of an image that could not be
            read stands another that this process read for the batch, so that batch statistics are
            those of images.
        label: index into the source's class names; 0 for padding.
        index: position in the source; -1 for padding.
        valid: False for padding and for images that could not be read.
    """

    image: UInt8[np.ndarray, "b h w 3"]
    label: Int32[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]
    valid: Bool[np.ndarray, " b"]


@dataclass(frozen=True)
class ReadBatch:
    """From positions in a source to a batch: one stage, because stages per image cost more.

    Attributes:
        source: the images.
        transform: applied to each.
        batch_size: images a batch of all processes together.
        rows: those of the batch that this process reads.
    """

    source: ImageSource
    transform: Transform
    batch_size: int
    rows: slice

    def __call__(self, indices: Integer[np.ndarray, " m"], rng: np.random.Generator) -> Batch:
        """Read this process's share of the images at the given positions, and pad it.

        Every row has random numbers of its own, which are the same whoever reads it.
        """
        height, width = self.transform.preprocessing.size
        count = self.rows.stop - self.rows.start
        batch = Batch(
            image=np.zeros((count, height, width, 3), np.uint8),
            label=np.zeros(count, np.int32),
            index=np.full(count, -1, np.int32),
            valid=np.zeros(count, np.bool_),
        )
        numbers = np.random.Philox(int(rng.integers(2**63)))
        rng_of_row, first = np.random.Generator(numbers), numbers.state
        for row, index in enumerate(indices[self.rows].tolist()):
            batch["label"][row] = self.source.labels[index]
            batch["index"][row] = index
            # A tenth of the time that a new generator takes.
            numbers.state = first
            numbers.advance((self.rows.start + row) << 64)
            # An error would end the worker, and with it the run: the consumer decides instead.
            with contextlib.suppress(DataError):
                batch["image"][row] = self.transform(self.source.open(index), rng_of_row)
                batch["valid"][row] = True
        readable, bad = np.flatnonzero(batch["valid"]), np.flatnonzero(_is_bad(batch))
        if readable.size:
            batch["image"][bad] = batch["image"][np.resize(readable, bad.size)]
        return batch


def training_batches(
    source: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """Endless batches in an order and with augmentations that are new in every epoch.

    The k-th batch depends only on (source, transform, batch_size, seed, k): a run that starts
    at ``start_step`` goes on exactly as one that was never interrupted, with any number of
    workers. The shares of several processes, one after the other, are the batch of one process. An
    epoch is ``len(source) // batch_size`` batches; the images left over differ from epoch to epoch.

    Args:
        source: the images.
        transform: applied to each image, with a generator of random numbers.
        batch_size: images a batch, of all processes together.
        seed: of the order and of the augmentations, in [0, 2**32).
        start_step: the first batch to give, counted from 0 over all epochs.
        num_workers: worker processes; with 0, threads of this process read ahead, as they do by
            default for images in memory, for few images and on few cores. The program that starts
            workers must guard its ``__main__``.
        share: (this process's number from 0, the number of processes): it reads that part of every
            batch. In the place of an image that could not be read stands another of the share.

    Returns:
        A generator; ``close()``, or dropping it, ends threads and workers.

    Raises:
        ConfigError: when an argument is out of range, ``batch_size`` exceeds the source, or the
            processes cannot share it equally.
    """
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, start_step=start_step, num_workers=num_workers or 0, seed=seed)
    rows = _rows(share, batch_size)
    if seed >= 2**32:
        raise ConfigError(f"seed is {seed}; expected less than 2**32")
    if batch_size > len(source):
        raise ConfigError(
            f"batch_size is {batch_size} but there are only {len(source)} training images; "
            f"choose a batch_size of at most {len(source)}"
        )
    batches = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .batch(batch_size, drop_remainder=True)
        .random_map(ReadBatch(source, transform, batch_size, rows))
        .repeat()
        .slice(slice(start_step, None))
    )
    return _ahead(batches, source, num_workers)


def evaluation_batches(
    source: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """Every image once, in order; the last batch is padded to ``batch_size``.

    Arguments and result are as for ``training_batches``.

    Raises:
        ConfigError: when an argument is out of range, or the processes cannot share
            ``batch_size`` equally.
    """
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, num_workers=num_workers or 0)
    rows = _rows(share, batch_size)
    batches = (
        grain.MapDataset.range(len(source))
        .batch(batch_size, drop_remainder=False)
        .random_map(ReadBatch(source, transform, batch_size, rows), seed=0)
    )
    return _ahead(batches, source, num_workers)


def choose_num_workers(source: ImageSource) -> int:
    """One a core, but none where threads do as well: for images in memory, and on few cores.

    Every worker has a thousand files to read.
    """
    cores = os.cpu_count() or 1
    if source.native_size is not None or cores <= _CORES_FOR_THREADS:
        return 0
    return min(cores, len(source) // _FILES_WORTH_A_WORKER)


def bad_images(batch: Batch) -> list[int]:
    """The source positions of images that could not be read; ``source.read`` says why."""
    return [int(index) for index in batch["index"][_is_bad(batch)]]


def _is_bad(batch: Batch) -> Bool[np.ndarray, " b"]:
    return ~batch["valid"] & (batch["index"] >= 0)


def _ahead(
    batches: "grain.MapDataset[Batch]", source: ImageSource, num_workers: int | None
) -> Generator[Batch, None, None]:
    if num_workers is None:
        num_workers = choose_num_workers(source)
    # Images in memory cost only Python: more threads would take turns at the same lock.
    return read_ahead(batches, num_workers, one_thread=source.native_size is not None)


def _rows(share: tuple[int, int], batch_size: int) -> slice:
    """The rows of a batch that a process reads."""
    process, processes = share
    if not 0 <= process < processes:
        raise ConfigError(
            f"share is {share}; expected this process's number, counted from 0, and the number "
            "of processes"
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
