"""Image folders on disk: which classes and parts they hold, and which files.

Opening a folder looks at names only; no image is read before it is asked for.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from bottleneck_transformer_flax.data.sources.base import (
    ALL,
    TEST,
    TRAIN,
    VALIDATION_NAMES,
    ImageSource,
    choose_parts,
)
from bottleneck_transformer_flax.decoding import IMAGE_SUFFIXES, read_file
from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.files import is_utf8

_LAYOUT = (
    "expected either train/ with val/ (or validation/, valid/), test/ or both, each with a folder "
    "per class, or one folder per class directly"
)


@dataclass(frozen=True, eq=False)
class FolderSource(ImageSource):
    """Image files, decoded when they are read.

    Attributes:
        root: folder that ``names`` are relative to.
        names: POSIX path of each image; strings, which pickle far smaller than paths.
        labels: class of each image, an index into ``class_names``.
        class_names: names of the classes.
        passed_over: number of visible files in the class folders without an image's suffix.
    """

    root: Path
    names: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    passed_over: int = 0

    def describe(self, index: int) -> str:
        """The image's path."""
        return str(self.root / self.names[index])

    def content(self, index: int) -> bytes:
        """The bytes of one file.

        Raises:
            DataError: when the file cannot be read.
        """
        return read_file(self.describe(index))


def open_folder(folder: Path) -> dict[str, FolderSource]:
    """The parts of an image folder: "train" with "val", "test" or both, or "all".

    Raises:
        DataError: as ``list_classes`` does, and when the folder is missing or a file, parts have
            different classes, or train/ has no other part beside it.
    """
    _check_folder(folder)
    if not (folder / TRAIN).is_dir():
        return {ALL: list_classes(folder)}
    names = (TRAIN, *VALIDATION_NAMES, TEST)
    found = {name: folder / name for name in names if (folder / name).is_dir()}
    if len(found) == 1:
        raise DataError(f"{folder}: has train/ but no val/ or test/ beside it; {_LAYOUT}")
    parts = {name: list_classes(path) for name, path in choose_parts(folder, found).items()}
    for part in parts.values():
        _check_same_classes(folder, parts[TRAIN], part)
    return parts


def list_classes(folder: Path) -> FolderSource:
    """The images of a folder that holds one folder per class, each searched to any depth.

    Classes, and the images of each, are sorted. Hidden files and folders, files beside the class
    folders, and files whose suffix is not an image's are passed over; symbolic links are followed.

    Raises:
        DataError: when the folder holds no images, or has subfolders that cannot be classes: empty,
            not named in UTF-8, or the parts of a data set.
    """
    classes = sorted(entry.name for entry in _visible(folder) if entry.is_dir())
    _check_class_names(folder, classes)
    files = {name: [f"{name}/{file}" for file in files_below(folder / name)] for name in classes}
    images = {name: sorted(filter(has_image_suffix, files[name])) for name in classes}
    if not any(images.values()):
        raise DataError(
            f"{folder}: no images found in class folders; looked for .jpg, .png, .webp and "
            f"{len(IMAGE_SUFFIXES) - 3} other suffixes; {_LAYOUT}, or what botnet data pack wrote"
        )
    if empty := [name for name in classes if not images[name]]:
        raise DataError(f"{folder}: no images for {_quoted(empty)}; add some or remove the folder")
    counts = [len(images[name]) for name in classes]
    return FolderSource(
        root=folder,
        names=tuple(image for name in classes for image in images[name]),
        labels=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        class_names=tuple(classes),
        passed_over=sum(map(len, files.values())) - sum(counts),
    )


def files_below(folder: Path, parents: tuple[str, ...] = ()) -> Iterator[str]:
    """The visible files at any depth, as POSIX paths relative to the folder.

    Links are followed, but not back to a folder that contains them; a link that leads nowhere
    counts as a file, which then cannot be read.

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
    """Whether a file's suffix belongs to an image format that this installation decodes."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise DataError(f"{folder}: no such folder, nor embedded or fashion-mnist; {_LAYOUT}")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder of images; {_LAYOUT}")


def _check_class_names(folder: Path, classes: list[str]) -> None:
    parts = {TRAIN, "training", *VALIDATION_NAMES, TEST, "testing"}
    if classes and all(name.lower() in parts for name in classes):
        raise DataError(
            f"{folder}: has {_quoted(classes)}, which are names of parts of a data set, not of "
            f"classes; {_LAYOUT}"
        )
    for name in classes:
        if not is_utf8(name):
            raise DataError(
                f"{folder}: the class folder {os.fsencode(name)!r} has a name that is not UTF-8; "
                "rename it"
            )


def _check_same_classes(folder: Path, train: FolderSource, other: FolderSource) -> None:
    differences = [
        f"only in {ours.root.name}/: {_quoted(sorted(missing))}"
        for ours, theirs in ((train, other), (other, train))
        if (missing := set(ours.class_names) - set(theirs.class_names))
    ]
    if differences:
        raise DataError(
            f"{folder}: {train.root.name}/ and {other.root.name}/ have different classes; "
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


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
