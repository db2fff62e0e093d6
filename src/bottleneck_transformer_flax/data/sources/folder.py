"""Image folders on disk: which classes they hold, which files, and how those are split.

Only names are looked at; no image is opened here.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bottleneck_transformer_flax.decoding import IMAGE_SUFFIXES
from bottleneck_transformer_flax.errors import ConfigError, DataError

TRAINING_FOLDER = "train"
TEST_FOLDERS = ("val", "validation", "valid", "test")
"""The folders that hold the images not trained on; the first that exists is taken."""

_LAYOUT = (
    "expected either train/ and val/ (or validation/, valid/, test/), each with a folder per "
    "class, or one folder per class directly"
)
_OTHER_FORMATS = (
    "or what botnet data pack wrote, Parquet files as the Hugging Face hub has them, or what "
    "TensorFlow Datasets prepared as array_record"
)


class Listing(NamedTuple):
    """The images below a folder.

    Attributes:
        root: the folder that the names start from.
        names: of every class, the sorted images as POSIX paths relative to ``root``; classes
            are sorted too.
        passed_over: how many visible files of the classes have no image's suffix.
    """

    root: Path
    names: dict[str, tuple[str, ...]]
    passed_over: int = 0


def list_classes(folder: Path) -> Listing:
    """List a folder that holds one folder per class, each searched to any depth.

    Hidden files and folders, files beside the class folders, and files whose suffix is not an
    image's are passed over; symbolic links are followed.

    Raises:
        DataError: when the folder is missing or a file, holds no images, one of its class
            folders is empty or has a name that is no text, or they are the parts of a data set.
    """
    _check_folder(folder)
    classes = sorted(entry.name for entry in _visible(folder) if entry.is_dir())
    _check_class_names(folder, classes)
    files = {name: [f"{name}/{file}" for file in files_below(folder / name)] for name in classes}
    names = {
        name: tuple(sorted(file for file in files[name] if has_image_suffix(file)))
        for name in classes
    }
    if not any(names.values()):
        raise DataError(
            f"{folder}: no images found in class folders; looked for .jpg, .png, .webp and "
            f"{len(IMAGE_SUFFIXES) - 3} other suffixes; {_LAYOUT}, {_OTHER_FORMATS}"
        )
    empty = [name for name, images in names.items() if not images]
    if empty:
        raise DataError(f"{folder}: no images for {_quoted(empty)}; add some or remove the folder")
    return Listing(folder, names, sum(map(len, files.values())) - sum(map(len, names.values())))


def list_splits(
    folder: Path, validation_fraction: float, split_seed: int
) -> tuple[Listing, Listing]:
    """List the (training, test) images of a folder in either layout.

    Raises:
        ConfigError: when a split must be made and ``validation_fraction`` is not in (0, 1).
        DataError: as ``list_classes``; also when there is only one class, when training and
            test classes differ, or when the layout is incomplete.
    """
    check_fraction(validation_fraction)
    _check_folder(folder)
    if not (folder / TRAINING_FOLDER).is_dir():
        listing = list_classes(folder)
        _check_several(listing)
        return split_listing(listing, validation_fraction, split_seed)
    test_folder = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if test_folder is None:
        raise DataError(f"{folder}: has train/ but no val/ or test/ beside it; {_LAYOUT}")
    train, test = list_classes(folder / TRAINING_FOLDER), list_classes(test_folder)
    _check_several(train)
    _check_same_classes(folder, train, test)
    return train, test


def split_listing(
    listing: Listing, validation_fraction: float, split_seed: int
) -> tuple[Listing, Listing]:
    """Split every class in (training, test) alike, at least one image on each side.

    Which side an image falls on depends only on the seed and the names in its class (images are
    taken in the order of a hash), so it is the same on every machine and for every copy.

    Raises:
        ConfigError: when ``validation_fraction`` is not in (0, 1).
        DataError: when a class has only one image.
    """
    check_fraction(validation_fraction)
    single = [name for name, images in listing.names.items() if len(images) < 2]
    if single:
        raise DataError(
            f"{listing.root}: only one image for {_quoted(single)}; a split needs at least two "
            "in every class: add images, or make train/ and val/ yourself"
        )

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{split_seed}\0{name}".encode(errors="surrogateescape")).digest()

    train: dict[str, tuple[str, ...]] = {}
    test: dict[str, tuple[str, ...]] = {}
    for class_name, images in listing.names.items():
        num_test = min(max(round(len(images) * validation_fraction), 1), len(images) - 1)
        held_out = set(sorted(images, key=rank)[:num_test])
        train[class_name] = tuple(name for name in images if name not in held_out)
        test[class_name] = tuple(name for name in images if name in held_out)
    return listing._replace(names=train), Listing(listing.root, test)


def check_fraction(validation_fraction: float) -> None:
    """Raise ConfigError unless the fraction is in (0, 1)."""
    if not 0 < validation_fraction < 1:
        raise ConfigError(
            f"validation_fraction is {validation_fraction}; expected a value between 0 and 1, "
            "for example 0.1"
        )


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise DataError(f"{folder}: no such folder, nor embedded or fashion-mnist; {_LAYOUT}")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder of images; {_LAYOUT}")


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: not so where a file's name is other bytes."""
    return name == name.encode(errors="replace").decode()


def _check_class_names(folder: Path, classes: list[str]) -> None:
    parts = {TRAINING_FOLDER, "training", *TEST_FOLDERS, "testing"}
    if classes and all(name.lower() in parts for name in classes):
        raise DataError(
            f"{folder}: {_quoted(classes)} are taken for the parts of a data set, not for classes; "
            "call the parts train/ and val/"
        )
    for name in classes:
        if not is_text(name):
            raise DataError(
                f"{folder}: the class folder {os.fsencode(name)!r} has a name that is not UTF-8; "
                "rename it"
            )


def _check_several(listing: Listing) -> None:
    if len(listing.names) < 2:
        raise DataError(
            f"{listing.root}: only one class, {_quoted(listing.names)}; classification needs at "
            f"least two; {_LAYOUT}"
        )


def _check_same_classes(folder: Path, train: Listing, test: Listing) -> None:
    differences = [
        f"only in {ours.root.name}/: {_quoted(sorted(missing))}"
        for ours, other in ((train, test), (test, train))
        if (missing := set(ours.names) - set(other.names))
    ]
    if differences:
        raise DataError(
            f"{folder}: {train.root.name}/ and {test.root.name}/ have different classes; "
            f"{'; '.join(differences)}; expected the same class folders in both"
        )


def _visible(folder: Path) -> list["os.DirEntry[str]"]:
    """The entries of a folder that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{folder}: cannot be listed: {reason}") from error


def files_below(folder: Path, parents: tuple[str, ...] = ()) -> Iterator[str]:
    """The visible files at any depth, as POSIX paths relative to the folder.

    Links are followed, but not back to a folder that they are in; one that leads nowhere is a
    file here, and cannot be read.

    Raises:
        DataError: when a folder cannot be listed.
    """
    real = os.path.realpath(folder)
    if real in parents:
        return
    for entry in _visible(folder):
        if entry.is_dir():
            below = files_below(folder / entry.name, (*parents, real))
            yield from (f"{entry.name}/{name}" for name in below)
        elif entry.is_file() or entry.is_symlink():
            yield entry.name


def has_image_suffix(name: str) -> bool:
    """Whether a file is called as images are that this installation can decode."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _quoted(names: "list[str] | dict[str, tuple[str, ...]]") -> str:
    return ", ".join(repr(name) for name in names)
