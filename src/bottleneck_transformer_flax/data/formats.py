"""Which format the images below a folder are stored in, and their split in two."""

from pathlib import Path

import numpy as np

from bottleneck_transformer_flax.data import tfds
from bottleneck_transformer_flax.data.sources import array_record as records
from bottleneck_transformer_flax.data.sources import parquet
from bottleneck_transformer_flax.data.sources.folder import (
    TEST_FOLDERS,
    TRAINING_FOLDER,
    Listing,
    split_listing,
)
from bottleneck_transformer_flax.data.sources.stored import StoredSource
from bottleneck_transformer_flax.errors import DataError


def open_stored(folder: Path) -> dict[str, StoredSource] | None:
    """The parts of a data set that is stored many images to a file; None of any other folder.

    Raises:
        DataError: when it is incomplete or damaged, or what reads it is not installed.
    """
    if records.is_packed(folder):
        return records.open_packed(folder)
    if (folder / records.PROGRESS_FILE).is_file():
        raise DataError(f"{folder}: is not packed to its end; repeat the same botnet data pack")
    if (folder / tfds.INFO_FILE).is_file() and (folder / tfds.FEATURES_FILE).is_file():
        return tfds.open_tfds(folder)
    if parquet_folder := parquet.find_files(folder):
        return parquet.open_parquet(parquet_folder)
    return None


def has_two_parts(folder: Path) -> bool:
    """Whether a folder, of images or in another format, says itself what to train and test on.

    Only names are looked at.
    """
    if records.is_packed(folder):
        return (folder / TRAINING_FOLDER).is_dir()
    if (folder / tfds.INFO_FILE).is_file() and (folder / tfds.FEATURES_FILE).is_file():
        return len(tfds.part_names(folder)) > 1
    if folder.is_dir() and (parquet_folder := parquet.find_files(folder)):
        return len(parquet.part_names(parquet_folder)) > 1
    return (folder / TRAINING_FOLDER).is_dir()


def only_part(folder: Path, parts: dict[str, StoredSource]) -> StoredSource:
    """The images of a data set that has one part.

    Raises:
        DataError: when it has several.
    """
    if len(parts) > 1:
        raise DataError(f"{folder}: comes in parts ({', '.join(parts)}); expected only one")
    return next(iter(parts.values()))


def two_parts(folder: Path, parts: dict[str, StoredSource]) -> tuple[StoredSource, StoredSource]:
    """The (training, test) images of a data set that has both.

    Raises:
        DataError: when it lacks one.
    """
    test = next((parts[name] for name in TEST_FOLDERS if name in parts), None)
    if TRAINING_FOLDER not in parts or test is None:
        raise DataError(
            f"{folder}: has the parts {', '.join(map(repr, parts))}; expected train and one of "
            f"{', '.join(TEST_FOLDERS)}"
        )
    return parts[TRAINING_FOLDER], test


def split_stored(
    folder: Path, parts: dict[str, StoredSource], validation_fraction: float, split_seed: int
) -> tuple[StoredSource, StoredSource]:
    """The (training, test) images: two parts that there are, or one that is split.

    It is split as an image folder is: by the names in every class.

    Raises:
        DataError: when there is only one class, when one with a single image is to be split, or
            as ``two_parts``.
    """
    class_names = next(iter(parts.values())).class_names
    if len(class_names) < 2:
        raise DataError(f"{folder}: only one class, {class_names[0]!r}; expected at least two")
    if len(parts) > 1:
        return two_parts(folder, parts)
    return _split(folder, only_part(folder, parts), validation_fraction, split_seed)


def _split(
    folder: Path, source: StoredSource, validation_fraction: float, split_seed: int
) -> tuple[StoredSource, StoredSource]:
    indices: dict[str, dict[str, int]] = {name: {} for name in source.class_names}
    for index, (name, label) in enumerate(zip(source.names, source.labels.tolist(), strict=True)):
        indices[source.class_names[label]][name] = index
    present = {name: tuple(images) for name, images in indices.items() if images}
    halves = split_listing(Listing(folder, present), validation_fraction, split_seed)
    train, test = (
        source.select(
            np.array([indices[name][image] for name in half.names for image in half.names[name]])
        )
        for half in halves
    )
    return train, test
