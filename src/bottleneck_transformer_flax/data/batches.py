"""A batch of images, and how a process reads its shard of one.

Importing this needs no jax, so that worker processes start quickly.
"""

import contextlib
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from bottleneck_transformer_flax.augmentation.image import Transform
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import DataError


class Batch(TypedDict):
    """Images of one size with their labels.

    Keys:
        image: RGB in [0, 255]; zeros for padding. An image that could not be read is replaced by
            another from the same process shard, so that batch norm sees only real images.
        label: index into the source's class names; 0 for padding.
        index: position in the source; -1 for padding.
        valid: False for padding and for images that could not be read.
    """

    image: UInt8[np.ndarray, "b h w 3"]
    label: Int32[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]
    valid: Bool[np.ndarray, " b"]


class Draw(NamedTuple):
    """A batch over all processes: positions of its images, and the seed of their augmentation."""

    indices: Int64[np.ndarray, " m"]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class ReadBatch:
    """Reads a process's shard of a batch; picklable, for worker processes.

    Attributes:
        source: the images.
        transform: applied to each image.
        rows: rows of the batch that this process reads.
    """

    source: ImageSource
    transform: Transform
    rows: slice

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the images together."""
        return (self.rows.stop - self.rows.start, *self.transform.preprocessing.size, 3)

    def __call__(self, draw: Draw, image: UInt8[np.ndarray, "b h w 3"] | None = None) -> Batch:
        """Read the images drawn, and pad the batch when they are too few.

        The random numbers of a row depend on the draw and the row alone, not on the process.

        Args:
            draw: the images to read.
            image: an array to overwrite with the images; by default a new one.
        """
        image = np.empty(self.shape, np.uint8) if image is None else image
        indices = draw.indices[self.rows]
        batch = Batch(
            image=image,
            label=np.zeros(len(image), np.int32),
            index=np.full(len(image), -1, np.int32),
            valid=np.zeros(len(image), np.bool_),
        )
        bit_generator = np.random.Philox(draw.seed)
        rng, start = np.random.Generator(bit_generator), bit_generator.state
        for row, index in enumerate(indices.tolist()):
            batch["label"][row] = self.source.labels[index]
            batch["index"][row] = index
            # Advancing to the row's numbers takes a tenth of the time of a new generator.
            bit_generator.state = start
            bit_generator.advance((self.rows.start + row) << 64)
            # An error would end the worker, and with it the run: ``BadImages`` decides instead.
            with contextlib.suppress(DataError):
                image[row] = self.transform(self.source.open(index), rng)
                batch["valid"][row] = True
        readable = np.flatnonzero(batch["valid"])
        bad = np.flatnonzero(~batch["valid"][: len(indices)])
        image[bad] = image[np.resize(readable, bad.size)] if readable.size else 0
        image[len(indices) :] = 0
        return batch


def bad_indices(batch: Batch) -> list[int]:
    """The source positions of images that could not be read; ``source.read`` says why."""
    bad = ~batch["valid"] & (batch["index"] >= 0)
    return batch["index"][bad].tolist()
