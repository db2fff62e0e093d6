"""Packing a data set: its original image files go into a few large ones, read in any order.

The format is described in ``sources/array_record.py``. Each file is recorded in ``packing.json`` as
soon as it is finished, so that an interrupted packing continues; ``dataset.json``, which makes the
folder a data set, is written last.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bottleneck_transformer_flax.data.shards import ShardJob, ShardPacker, make_jobs
from bottleneck_transformer_flax.data.sources.array_record import (
    LABELS_FILE,
    NAMES_FILE,
    Description,
    Shard,
    read_description,
)
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.data.workers import (
    check_num_workers,
    limited_num_workers,
    run_jobs,
    usable_cores,
)
from bottleneck_transformer_flax.errors import ConfigError, DataError, first_of, require_extra
from bottleneck_transformer_flax.files import UNFINISHED_FILES, locked, write_bytes
from bottleneck_transformer_flax.own_output import DESCRIPTION_FILE, PROGRESS_FILE


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A packed data set in numbers.

    Attributes:
        images: number of images in each part.
        files: number of image files, written now or before.
        bytes: size of these files.
        left_out: a line for each image left out, with its name and why it cannot be decoded.
    """

    images: dict[str, int]
    files: int
    bytes: int
    left_out: tuple[str, ...]


def pack(
    parts: Mapping[str, ImageSource],
    out: Path,
    *,
    shards: int | None = None,
    num_workers: int | None = None,
    skip_bad_images: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> Packed:
    """Write a packed data set, or the files that an earlier call has not finished.

    Args:
        parts: images to pack; see ``datasets.load_parts``.
        out: the folder to write: new, empty, or with an unfinished packing of the same images.
        shards: number of files for the largest part; by default one for every 4,096 images. Files
            of other parts hold as many images.
        num_workers: processes, at most one for each core and each file; by default one a core. A
            program that starts them must guard its ``__main__``.
        skip_bad_images: leave out images that cannot be decoded instead of stopping.
        on_image: called after every image.

    Raises:
        ConfigError: when an argument is out of range, or ``out`` holds anything else.
        DataError: when an image cannot be decoded, or an image file cannot be written.
        OSError: when another file cannot be written.
    """
    require_extra("data", ["array_record"], "packing", DataError)
    check_num_workers(num_workers)
    jobs = make_jobs(parts, shards)
    digest = _digest(parts, jobs)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a new folder to write to")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, DataError(f"another process is packing into {out}; wait for it")):
        finished = _finished_before(out, parts, jobs, digest)
        packing = _Packing(out, digest, parts, finished)
        packing.begin()
        num_workers = num_workers and limited_num_workers(num_workers, len(jobs), "file")
        run_jobs(
            ShardPacker(folder=out, parts=dict(parts), skip_bad_images=skip_bad_images),
            [dataclasses.replace(job, known=packing.finished.get(job.file)) for job in jobs],
            num_workers=usable_cores() if num_workers is None else num_workers,
            on_step=on_image,
            on_result=packing.finish,
        )
        images = {part: packing.write_index(part) for part in parts}
        # Last, since it makes the folder a data set.
        packing.describe(DESCRIPTION_FILE)
        (out / PROGRESS_FILE).unlink()
    return packing.summary(images)


@dataclass(frozen=True)
class _Packing:
    """A packing under way.

    Attributes:
        out: the folder to write.
        digest: digest of the images, and of the files they go to.
        parts: the images.
        finished: the files finished so far, by their paths below ``out``.
    """

    out: Path
    digest: str
    parts: Mapping[str, ImageSource]
    finished: dict[str, Shard]

    def begin(self) -> None:
        """Make the folder one whose packing can be continued, before the first image."""
        # Only processes that have ended can have left them: this one holds the lock.
        for unfinished in list(self.out.rglob(UNFINISHED_FILES)):
            unfinished.unlink()
        self.describe(PROGRESS_FILE)

    def finish(self, shard: Shard) -> None:
        """Record a finished file."""
        self.finished[shard.file] = shard
        self.describe(PROGRESS_FILE)

    def describe(self, name: str) -> None:
        """Write the description of the finished files to a file called ``name``."""
        description = Description(
            source=self.digest,
            class_names=next(iter(self.parts.values())).class_names,
            parts={part: tuple(self.shards_of(part)) for part in self.parts},
        )
        write_bytes(self.out / name, json.dumps(description.to_json(), indent=1).encode())

    def shards_of(self, part: str) -> list[Shard]:
        """The finished files of a part, in order."""
        files = sorted(file for file in self.finished if file.startswith(f"{part}/"))
        return [self.finished[file] for file in files]

    def summary(self, images: dict[str, int]) -> Packed:
        """Add up the finished files."""
        shards = self.finished.values()
        left_out = tuple(reason for shard in shards for reason in shard.left_out.values())
        size = sum(shard.bytes for shard in shards)
        return Packed(images=images, files=len(shards), bytes=size, left_out=left_out)

    def write_index(self, part: str) -> int:
        """Write the labels and names of a part's packed images; return their number."""
        folder, source = self.out / part, self.parts[part]
        left_out = {name for shard in self.shards_of(part) for name in shard.left_out}
        packed = [index for index, name in enumerate(source.names) if name not in left_out]
        if not packed:
            raise DataError(f"{folder}: none of the images of this part can be read")
        labels = io.BytesIO()
        np.save(labels, source.labels[packed].astype(np.int32))
        write_bytes(folder / LABELS_FILE, labels.getvalue())
        names = [source.names[index] for index in packed]
        write_bytes(folder / NAMES_FILE, json.dumps(names).encode())
        return len(packed)


def _digest(parts: Mapping[str, ImageSource], jobs: Sequence[ShardJob]) -> str:
    """A digest of the images, and of the files they go to."""
    digest = hashlib.sha256()
    for part, source in parts.items():
        record = (part, source.class_names, source.names, source.labels.tolist())
        digest.update(json.dumps(record).encode())
    digest.update(json.dumps([job.file for job in jobs]).encode())
    return digest.hexdigest()


def _finished_before(
    out: Path, parts: Mapping[str, ImageSource], jobs: Sequence[ShardJob], digest: str
) -> dict[str, Shard]:
    """The files that an earlier packing of the same images finished.

    Raises:
        ConfigError: when the folder holds anything else; the message says what differs.
    """
    for name in (PROGRESS_FILE, DESCRIPTION_FILE):
        if (out / name).is_file():
            description = read_description(out / name)
            if description.source != digest:
                raise ConfigError(
                    f"{out} was packed {_difference(description, parts, jobs)}; name a new folder, "
                    "or repeat the command that began it"
                )
            return {shard.file: shard for part in description.parts.values() for shard in part}
    if any(not path.match(UNFINISHED_FILES) for path in out.iterdir()):
        raise ConfigError(f"{out} is not empty; name a new folder to write to")
    return {}


def _difference(
    earlier: Description, parts: Mapping[str, ImageSource], jobs: Sequence[ShardJob]
) -> str:
    """How an earlier packing differs from one of these images into these files."""
    class_names = next(iter(parts.values())).class_names
    if earlier.class_names != class_names:
        return f"with other classes: {first_of(earlier.class_names)}; not {first_of(class_names)}"
    files = {shard.file for shards in earlier.parts.values() for shard in shards}
    if others := sorted(files - {job.file for job in jobs}):
        return f"into other files, such as {others[0]}: see --shards"
    return "from images of other names or labels, or into other files: see --shards"
