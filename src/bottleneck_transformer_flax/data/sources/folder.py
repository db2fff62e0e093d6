"""Image folders on disk: which classes and parts they hold, and which files.

Opening a folder looks at names, and at the first bytes of files that this package may have written;
no image is decoded before it is asked for.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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
from bottleneck_transformer_flax.data.sources.walking import (
    files_below,
    holds_own_marker,
    left_out,
    visible,
)
from bottleneck_transformer_flax.decoding import read_file
from bottleneck_transformer_flax.errors import DataError, quoted
from bottleneck_transformer_flax.files import is_utf8
from bottleneck_transformer_flax.image_formats import (
    IMAGE_SUFFIXES,
    count_undecoded,
    describe_undecoded,
    has_image_suffix,
)
from bottleneck_transformer_flax.own_output import RUNS

_LAYOUT = (
    "expected either train/ with val/ (or validation/, valid/), test/ or both, each with a folder "
    "per class, or one folder per class directly"
)
_PART_NAMES = {TRAIN, "training", *VALIDATION_NAMES, TEST, "testing", ALL}


@dataclass(frozen=True, eq=False)
class FolderSource(ImageSource):
    """Image files, decoded when they are read.

    Attributes:
        root: folder that ``names`` are relative to.
        names: POSIX path of each image; strings, which pickle far smaller than paths.
        labels: class of each image, an index into ``class_names``.
        class_names: names of the classes.
        notes: a sentence about each kind of thing in ``root`` that is not used.
        origin: name of ``root``, as in "val/".
    """

    root: Path
    names: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    origin: str = ""

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

    All parts have the classes of train/; the others may lack images of some.

    Raises:
        DataError: as ``list_classes`` does, and when the folder is missing or a file, a part has a
            class that train/ lacks, train/ is missing, or no other part is beside it.
    """
    _check_folder(folder)
    if not (found := find_parts(folder)):
        return {ALL: list_classes(folder)}
    others = [name for name in _folders_in(folder) if name not in found]
    only_all = [*found] == [ALL] and all(_holds_only_own_output(folder / name) for name in others)
    names = (ALL,) if only_all else (TRAIN, *VALIDATION_NAMES, TEST)
    chosen = {name: found[name] for name in names if name in found}
    if not chosen.keys() & {TRAIN, ALL}:
        raise DataError(
            f"{folder}: has no train/, but {quoted(found)}, which hold folders and have names of "
            f"parts of a data set; {_LAYOUT}"
        )
    if [*chosen] == [TRAIN]:
        raise DataError(f"{folder}: has train/ but no val/ or test/ beside it; {_LAYOUT}")
    listings = {name: _list(path) for name, path in choose_parts(folder, chosen).items()}
    first = next(iter(listings))
    train = listings[first]
    for listing in listings.values():
        _check_known(listing, train.images)
    _check_not_empty(train)
    if unused := [*others, *(name for name in found if name not in chosen)]:
        note = f"{folder}: folders beside the parts are not used: {quoted(unused)}"
        listings[first] = dataclasses.replace(train, notes=(note, *train.notes))
    return {name: listing.source([*train.images]) for name, listing in listings.items()}


def find_parts(folder: Path) -> dict[str, Path]:
    """The folders of a data set's parts, by their names; empty where there are classes instead.

    A folder called "train", say, is a part where it holds folders, and a class where it holds
    images directly. With both it is a part only where another one of such a name holds folders too.
    """
    named = {
        name: visible(folder / name)
        for name in _folders_in(folder)
        if name.lower() in _PART_NAMES and not _holds_only_own_output(folder / name)
    }
    with_folders = [entries for entries in named.values() if any(e.is_dir() for e in entries)]
    if len(with_folders) < 2 and all(any(_images_in(entries)) for entries in with_folders):
        return {}
    return {name: folder / name for name in named}


def list_classes(folder: Path) -> FolderSource:
    """The images of a folder that holds one folder per class, each searched to any depth.

    Classes, and the images of each, are sorted. Left out are hidden files and folders, whatever
    this package itself has written, files beside the class folders, and files whose suffix is not
    that of an image format decoded here; symbolic links are followed.

    Raises:
        DataError: when the folder holds no images, was written by this package, or has subfolders
            that cannot be classes: empty, or not named in UTF-8.
    """
    listing = _list(folder)
    _check_not_empty(listing)
    return listing.source([*listing.images])


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """A folder of classes: what ``FolderSource`` says, with the images by class."""

    root: Path
    images: dict[str, list[str]]
    undecoded: Counter[str]
    notes: tuple[str, ...]

    def source(self, class_names: Sequence[str]) -> FolderSource:
        """The images, labelled as indices into ``class_names``."""
        images = [self.images.get(name, []) for name in class_names]
        return FolderSource(
            root=self.root,
            names=tuple(chain.from_iterable(images)),
            labels=np.repeat(np.arange(len(images), dtype=np.int32), [*map(len, images)]),
            class_names=tuple(class_names),
            notes=self.notes,
            # Unlike the path's own name, this is not empty for the current folder.
            origin=f"{Path(os.path.abspath(self.root)).name}/",  # noqa: PTH100
        )


def _list(folder: Path) -> _Listing:
    """List a folder of classes, some of which may be empty; else as ``list_classes``."""
    entries = visible(folder)
    if holds_own_marker(folder, entries):
        raise DataError(f"{folder}: was written by botnet; expected a folder of images; {_LAYOUT}")
    names = sorted(entry.name for entry in entries if entry.is_dir())
    _check_class_names(folder, names)
    root = Path(os.path.realpath(folder))
    images: dict[str, list[str]] = {}
    undecoded: Counter[str] = Counter()
    ignored, own_output = 0, []
    for name in names:
        below: list[str] = []
        files = {f"{name}/{file}" for file in files_below(folder / name, below, (root,))}
        found = sorted(filter(has_image_suffix, files))
        undecoded += (others := count_undecoded(files.difference(found)))
        ignored += len(files) - len(found) - others.total()
        # A folder of nothing but own output is no class, nor is one where no run is left.
        if found or others or not (below or (name == RUNS and not files)):
            images[name] = found
            own_output += below
        else:
            own_output.append(str(folder / name))
    unused = [left_out(own_output)] if own_output else []
    if nested := [name for name, found in images.items() if any(f.count("/") > 1 for f in found)]:
        unused.append(
            f"subfolders are not classes of their own; their images belong to {quoted(nested)}"
        )
    if undecoded:
        unused.append(f"left out {describe_undecoded(undecoded)}")
    if ignored:
        unused.append(f"ignored files that are not images: {ignored:,}")
    if beside := [*_images_in(entries)]:
        if not images:
            raise DataError(
                f"{folder}: has images but no class folders; put each image into a folder named "
                "after its class"
            )
        unused.append(f"images beside the class folders are not used: {quoted(beside)}")
    if not any(images.values()):
        looked_for = f"looked for .jpg, .png, .webp and {len(IMAGE_SUFFIXES) - 3} other suffixes"
        found = [f"{folder}: no images found in class folders", *unused, looked_for]
        raise DataError(f"{'; '.join(found)}; {_LAYOUT}, or what botnet data pack wrote")
    notes = tuple(f"{folder}: {what}" for what in unused)
    return _Listing(root=folder, images=images, undecoded=undecoded, notes=notes)


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise DataError(f"{folder}: no such folder, nor embedded or fashion-mnist; {_LAYOUT}")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder of images; {_LAYOUT}")


def _check_class_names(folder: Path, classes: list[str]) -> None:
    for name in classes:
        if not is_utf8(name):
            raise DataError(
                f"{folder}: the class folder {os.fsencode(name)!r} has a name that is not UTF-8; "
                "rename it"
            )


def _check_not_empty(listing: _Listing) -> None:
    if empty := [name for name, images in listing.images.items() if not images]:
        remedy = describe_undecoded(listing.undecoded) or "add some or remove the folder"
        raise DataError(f"{listing.root}: no images for {quoted(empty)}; {remedy}")


def _check_known(listing: _Listing, known: Mapping[str, list[str]]) -> None:
    names = [name for name, images in listing.images.items() if images and not known.get(name)]
    if names:
        raise DataError(
            f"{listing.root}: has images of {quoted(names)}, but train/ has none; add images of "
            "every class to train/, or remove the folder"
        )


def _folders_in(folder: Path) -> list[str]:
    """The names of the visible folders in a folder, sorted."""
    return sorted(entry.name for entry in visible(folder) if entry.is_dir())


def _holds_only_own_output(folder: Path) -> bool:
    own_output: list[str] = []
    return not any(files_below(folder, own_output)) and (folder.name == RUNS or bool(own_output))


def _images_in(entries: Iterable["os.DirEntry[str]"]) -> Iterator[str]:
    """The names of the images among entries."""
    return (entry.name for entry in entries if has_image_suffix(entry.name) and entry.is_file())
