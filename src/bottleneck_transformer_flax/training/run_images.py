"""The images of a run: known by their classes and names, wherever they are now. No jax."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bottleneck_transformer_flax.data.datasets import (
    NAMED_DATA_SETS,
    Splits,
    digest_images,
    digest_splits,
    image_keys,
    load_splits,
)
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.decoding import allow_pixels
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.run_directory import ImageRecord, RunDirectory


def load_images(config: RunConfig, data: str | None = None) -> Splits:
    """The data of a run, or other data, split by the run's options; raises as ``load_splits``.

    From now on, images may have as many pixels as in the run.
    """
    allow_pixels(config.input.max_pixels)
    return load_splits(
        config.data if data is None else data,
        validation_fraction=config.input.validation_fraction,
        split_seed=config.input.split_seed,
    )


def record_images(run: RunDirectory, config: RunConfig, splits: Splits) -> ImageRecord:
    """What ``run.json`` keeps about the images of a run."""
    digests = digest_splits(splits)
    if config.data in NAMED_DATA_SETS:
        return ImageRecord(digests=digests)
    path = Path(config.data).absolute()
    from_run = os.path.relpath(path, run.path.resolve())
    return ImageRecord(digests=digests, path=str(path), path_from_run=from_run)


@dataclass(frozen=True)
class RunImages:
    """Which images a model was trained, validated and tested on.

    Attributes:
        owner: the run or the model, for messages.
        config: options of the run, which decide how images are split.
        digests: digest of the images of each split; empty where there is no record of them.
        places: where they may be, the likeliest place first; none where nothing is known.
    """

    owner: str
    config: RunConfig
    digests: Mapping[str, str]
    places: tuple[str, ...]

    @classmethod
    def of_run(cls, run: RunDirectory) -> "RunImages":
        """The images of a run: where they were as seen from the run, where they were, or as typed.

        What moved together is found by the first, and a run that moved alone by the second.
        """
        config, record = run.read_config(), run.read_images()
        places = [config.data]
        if record.path is not None and record.path_from_run is not None:
            from_run = os.path.normpath(run.path.resolve() / record.path_from_run)
            places = [from_run, record.path, config.data]
        # A place that was typed is told as it was typed.
        unique = {os.path.realpath(place): place for place in places}
        return cls(str(run.path), config, record.digests, tuple(unique.values()))

    @property
    def place(self) -> str:
        """Where the images seem to be; nothing is compared."""
        return next(filter(os.path.exists, self.places), self.config.data)

    def are(self, splits: Splits, split: str | None = None) -> bool:
        """Whether a data set holds the run's images; assumed where the run has no record of them.

        Args:
            splits: the data set, split by the run's options.
            split: the only split to compare; by default all.
        """
        known = {name: value for name, value in self.digests.items() if split in (None, name)}
        return known.items() <= digest_splits(splits).items() if known else bool(self.places)

    def find(self, split: str | None = None) -> tuple[str, Splits]:
        """The first place that holds the run's images, or those of one split, and what it holds.

        Raises:
            DataError: when no place does; the message says what is there instead.
        """
        found = []
        for place in self.places:
            if place not in NAMED_DATA_SETS and not Path(place).exists():
                found.append(f"{place} does not exist")
                continue
            try:
                splits = load_images(self.config, place)
            except DataError as error:
                found.append(str(error))
                continue
            if self.are(splits, split):
                return place, splits
            found.append(f"{place} holds other images: {splits.description}")
        raise DataError(f"the images of {self.owner} are not found: {'; '.join(found)}")

    def splits_of(self, source: ImageSource) -> list[str]:
        """The splits of the run that have exactly the images of a source."""
        digest = digest_images(source)
        return [split for split, known in self.digests.items() if known == digest]

    def count_trained_on(self, source: ImageSource) -> int:
        """How many images of a source have the class and name of one that the run trained on.

        Raises:
            DataError: when the run's images are not found.
        """
        _, splits = self.find()
        trained_on = set(image_keys(splits.train))
        return sum(key in trained_on for key in image_keys(source))
