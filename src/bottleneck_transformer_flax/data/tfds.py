"""Data sets that TensorFlow Datasets prepared, in its random-access format; no TensorFlow.

A folder is the one of a version, such as ``~/tensorflow_datasets/cifar10/3.0.2``, with
``dataset_info.json`` and ``features.json``. The labels are in the same records as the images, so
all are read once at the start; ``botnet data pack`` makes of it what starts at once.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck_transformer_flax.data.sources.stored import (
    OpenedOnce,
    StoredSource,
    distinct,
    require,
)
from bottleneck_transformer_flax.errors import DataError

INFO_FILE = "dataset_info.json"
FEATURES_FILE = "features.json"
_RANDOM_ACCESS = "array_record"


def open_tfds(folder: Path) -> dict[str, StoredSource]:
    """The parts of a data set, "train", "validation" and so on; one without labels is left out.

    Raises:
        DataError: when TensorFlow Datasets is not installed or cannot read the folder, or when
            it does not hold images with labels.
    """
    require("tensorflow_datasets", f"{folder}: a TFDS data set", "pip install tensorflow-datasets")
    _check_format(folder)
    import tensorflow_datasets

    try:
        info = tensorflow_datasets.builder_from_directory(str(folder)).info
    # What it raises on a damaged folder is of a dozen kinds, of its own and of others.
    except Exception as error:
        raise DataError(f"{folder}: {_first_line(error)}") from error
    features = tensorflow_datasets.features
    image, label = (
        _feature(folder, info.features, kind, name)
        for kind, name in ((features.Image, "image"), (features.ClassLabel, "label"))
    )
    class_names = distinct(info.features[label].names)
    sources = {
        part: _open_part(folder, part, image, label, class_names)
        for part, split in info.splits.items()
        if split.num_examples
    }
    labelled = {part: source for part, source in sources.items() if (source.labels >= 0).any()}
    if not labelled:
        raise DataError(f"{folder}: no image has a label")
    return labelled


def part_names(folder: Path) -> list[str]:
    """What the parts are called, labelled or not.

    Raises:
        DataError: when the description cannot be read.
    """
    return [str(split["name"]) for split in _read_info(folder).get("splits", [])]


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / INFO_FILE}: cannot be read: {_first_line(error)}") from error
    if not isinstance(info, dict):
        raise DataError(f"{folder / INFO_FILE}: is not the description of a data set")
    return info


def _check_format(folder: Path) -> None:
    """See that images can be read in any order."""
    # Before there were others, the format was not written down.
    format_name = _read_info(folder).get("fileFormat", "tfrecord")
    if format_name != _RANDOM_ACCESS:
        raise DataError(
            f"{folder}: is prepared as {format_name}, which can only be read in order; prepare "
            f"it again with tfds build --file_format={_RANDOM_ACCESS}, or convert it with "
            f"tfds convert_format --out_file_format={_RANDOM_ACCESS}"
        )


def _feature(folder: Path, features: Any, kind: type, usual: str) -> str:
    """The key of the one feature of a kind, or of the one with the usual name."""
    found = [key for key, feature in features.items() if isinstance(feature, kind)]
    if usual in found:
        return usual
    if len(found) != 1:
        raise DataError(
            f"{folder}: has the features {', '.join(features)}; expected one "
            f"{kind.__name__} called {usual}, or only one at all"
        )
    return found[0]


def _open_part(
    folder: Path, part: str, image: str, label: str, class_names: tuple[str, ...]
) -> StoredSource:
    reader = TfdsReader(str(folder), part, image)
    labels = reader.labels(label)
    if (labels >= 0).any() and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise DataError(
            f"{folder}: {part} has labels from {labels.min()} to {labels.max()}; expected 0 to "
            f"{len(class_names) - 1}"
        )
    return StoredSource(
        reader=reader,
        positions=np.arange(len(labels)),
        names=tuple(f"{part}/{number}" for number in range(len(labels))),
        labels=labels,
        class_names=class_names,
        origin=str(folder),
    )


class TfdsReader:
    """Reads images by their number in a part, through TensorFlow Datasets."""

    def __init__(self, folder: str, part: str, image: str) -> None:
        """For the images with the key ``image``; opened when first needed."""
        self._folder, self._part, self._image = folder, part, image
        self._records = OpenedOnce(functools.partial(_open_records, folder, part, image))

    def read(self, position: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: when they cannot be read.
        """
        return self._record(position)[self._image]

    def labels(self, key: str) -> np.ndarray:
        """The labels of all images, for which all records are read."""
        count = len(self._records.get())
        return np.array([self._record(position)[key] for position in range(count)], np.int32)

    def _record(self, position: int) -> Any:
        try:
            return self._records.get()[position]
        # As of the folder, so of a record: what it raises is of a dozen kinds.
        except Exception as error:
            raise DataError(
                f"{self._folder}: {self._part} image {position}: {_first_line(error)}"
            ) from error


def _open_records(folder: str, part: str, image: str) -> Any:
    """The records of a part, the images in them as bytes."""
    import tensorflow_datasets

    return tensorflow_datasets.builder_from_directory(folder).as_data_source(
        split=part, decoders={image: tensorflow_datasets.decode.SkipDecoding()}
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
