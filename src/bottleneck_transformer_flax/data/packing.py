"""Pack a data set: its images, as they are, into few large files that any is read from at once.

What is written is described in ``records``. Every file is recorded as soon as it is finished, in
``packing.json``, so that packing goes on where it was interrupted; ``dataset.json``, with which
the folder becomes a data set, takes its place at the end.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bottleneck_transformer_flax.data.shards import (
    ShardJob,
    ShardPacker,
    make_jobs,
)
from bottleneck_transformer_flax.data.sources.array_record import (
    DESCRIPTION_FILE,
    LABELS_FILE,
    NAMES_FILE,
    PROGRESS_FILE,
    Description,
    Shard,
    read_description,
)
from bottleneck_transformer_flax.data.sources.base import ImageSource, require
from bottleneck_transformer_flax.data.workers import run_jobs, usable_cores
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.files import UNFINISHED_FILES, locked, write_bytes


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What was packed.

    Attributes:
        images: how many there are in each part.
        files: how many were written or found finished, of images.
        bytes: of these files.
        left_out: of every image that cannot be decoded the reason, which names it.
    """

    images: dict[str, int]
    files: int
    bytes: int
    left_out: tuple[str, ...]


def pack(
    parts: dict[str, ImageSource],
    out: Path,
    *,
    shards: int | None = None,
    num_workers: int | None = None,
    skip_bad_images: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> Packed:
    """Write a packed data set, or what is still missing of it.

    Args:
        parts: what to pack; see ``datasets.load_parts``.
        out: the folder to write: a new one, an empty one, or one that the same was begun in.
        shards: files that the largest part is written to; by default one for every 4,096
            images. Those of other parts hold as many images.
        num_workers: processes; by default one a core. The program that starts them must guard
            its ``__main__``.
        skip_bad_images: leave out images that cannot be decoded instead of stopping.
        on_image: called after every image.

    Raises:
        ConfigError: when an argument is out of range, or ``out`` holds anything else.
        DataError: when an image cannot be decoded, or a file cannot be written.
        OSError: likewise.
    """
    require("array_record", "packing")
    require("msgpack", "packing")
    if num_workers is not None and num_workers < 0:
        raise ConfigError(f"num_workers is {num_workers}; expected at least 0")
    jobs = make_jobs(parts, shards)
    digest = _digest(parts, jobs)
    _make_folder(out)
    busy = DataError(f"another process is packing into {out}; wait for it")
    with locked(out, busy), _nothing_unfinished_left(out):
        progress = _Progress(out, digest, parts, _recorded(out, digest))
        # First: with it a later call knows the folder as one of its own.
        progress.write(PROGRESS_FILE)
        for part in parts:
            (out / part).mkdir(exist_ok=True)
        run_jobs(
            ShardPacker(folder=out, parts=parts, skip_bad_images=skip_bad_images),
            [dataclasses.replace(job, known=progress.shards.get(job.file)) for job in jobs],
            num_workers=usable_cores() if num_workers is None else num_workers,
            on_step=on_image,
            on_result=progress.finish,
        )
        images = {
            part: _write_index(
                out / part, source, [job for job in jobs if job.part == part], progress
            )
            for part, source in parts.items()
        }
        # Last: with it the folder is a data set.
        progress.write(DESCRIPTION_FILE)
        (out / PROGRESS_FILE).unlink()
    written = progress.shards.values()
    return Packed(
        images=images,
        files=len(written),
        bytes=sum(shard.bytes for shard in written),
        left_out=tuple(reason for shard in written for reason in shard.left_out.values()),
    )


class _Progress:
    """The files that are finished, as they are recorded."""

    def __init__(
        self, out: Path, digest: str, parts: dict[str, ImageSource], recorded: dict[str, Shard]
    ) -> None:
        self._out, self._digest, self._parts = out, digest, tuple(parts)
        self._class_names = next(iter(parts.values())).class_names
        self.shards = recorded

    def finish(self, shard: Shard) -> None:
        """Record one more."""
        self.shards[shard.file] = shard
        self.write(PROGRESS_FILE)

    def write(self, name: str) -> None:
        """Write all that is recorded to a file."""
        shards = sorted(self.shards.values(), key=lambda shard: shard.file)
        description = Description(
            source=self._digest,
            class_names=self._class_names,
            parts={
                part: tuple(shard for shard in shards if shard.file.startswith(f"{part}/"))
                for part in self._parts
            },
        )
        write_bytes(self._out / name, json.dumps(description.to_json(), indent=1).encode())


def _digest(parts: dict[str, ImageSource], jobs: list[ShardJob]) -> str:
    """What is packed into which files."""
    digest = hashlib.sha256()
    for part, source in parts.items():
        record = (part, source.class_names, source.names, source.labels.tolist())
        digest.update(json.dumps(record).encode())
    digest.update(json.dumps([job.file for job in jobs]).encode())
    return digest.hexdigest()


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a new folder to write to")
    out.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _nothing_unfinished_left(out: Path) -> Iterator[None]:
    """Remove what processes left that were ended in the middle, these ones or earlier ones."""
    try:
        yield
    finally:
        for unfinished in (*out.glob(UNFINISHED_FILES), *out.glob(f"*/{UNFINISHED_FILES}")):
            unfinished.unlink()


def _recorded(out: Path, digest: str) -> dict[str, Shard]:
    """The files that were finished before.

    Raises:
        ConfigError: when the folder holds anything but a beginning of the same.
    """
    for name in (PROGRESS_FILE, DESCRIPTION_FILE):
        if (out / name).is_file():
            description = read_description(out / name)
            if description.source != digest:
                raise ConfigError(
                    f"{out} holds other images packed, or the same with other options or classes; "
                    "name a new folder, or repeat what was begun there"
                )
            return {shard.file: shard for part in description.parts.values() for shard in part}
    if any(not path.match(UNFINISHED_FILES) for path in out.iterdir()):
        raise ConfigError(f"{out} is not empty; name a new folder to write to")
    return {}


def _write_index(
    folder: Path, source: ImageSource, jobs: list[ShardJob], progress: _Progress
) -> int:
    """Write the labels and names of what is in the files of a part; how many there are.

    Raises:
        DataError: when there are none.
    """
    names = source.names
    kept = [
        index
        for job in jobs
        for index in job.indices
        if names[index] not in progress.shards[job.file].left_out
    ]
    if not kept:
        raise DataError(f"{folder}: none of the images of this part can be read")
    labels = io.BytesIO()
    np.save(labels, source.labels[kept].astype(np.int32))
    write_bytes(folder / LABELS_FILE, labels.getvalue())
    write_bytes(folder / NAMES_FILE, json.dumps([names[index] for index in kept]).encode())
    return len(kept)
