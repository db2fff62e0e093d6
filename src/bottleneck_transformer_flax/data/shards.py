"""The image files of a packed data set: planned, then each written and verified."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bottleneck_transformer_flax.data.bad_images import REMEDY, may_be_left_out
from bottleneck_transformer_flax.data.sources.array_record import (
    Record,
    Shard,
    encode_record,
    open_records,
)
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.decoding import EncodedImage
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.files import atomic_file

# Images are compressed already, and each is read alone.
_WRITER_OPTIONS = "group_size:1,uncompressed"
USUAL_IMAGES = 4096
# A file stays open once it has been read from, and a process may usually open a thousand.
MOST_SHARDS = 512


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """A file to write.

    Attributes:
        part: part of the data set.
        file: POSIX path below the data set's folder.
        indices: positions in the part of the images that go into the file.
        known: description of the file where an earlier packing wrote it.
    """

    part: str
    file: str
    indices: range
    known: Shard | None = None


def make_jobs(parts: Mapping[str, ImageSource], shards: int | None) -> list[ShardJob]:
    """Plan the files to write, with the images of a part spread evenly over them.

    Raises:
        ConfigError: when ``shards`` is out of range.
    """
    largest = max(map(len, parts.values()))
    most = min(largest, MOST_SHARDS)
    if shards is None:
        shards = min(math.ceil(largest / USUAL_IMAGES), most)
    if not 1 <= shards <= most:
        raise ConfigError(f"shards is {shards}; expected 1 to {most} for this data")
    jobs = []
    for part, source in parts.items():
        count = max(1, round(shards * len(source) / largest))
        for number in range(count):
            start, stop = (len(source) * end // count for end in (number, number + 1))
            file = f"{part}/part-{number:05}-of-{count:05}.arrayrecord"
            jobs.append(ShardJob(part=part, file=file, indices=range(start, stop)))
    return jobs


@dataclass(frozen=True, kw_only=True)
class ShardPacker:
    """Writes files; picklable, for worker processes.

    Attributes:
        folder: folder of the data set.
        parts: images to pack.
        skip_bad_images: leave out images that cannot be decoded instead of stopping.
    """

    folder: Path
    parts: dict[str, ImageSource]
    skip_bad_images: bool

    def __call__(self, job: ShardJob, on_image: Callable[[], None]) -> Shard:
        """Write a file, unless it is there and whole; return its description.

        A file that lacks images is written again, since they may have been repaired.

        Raises:
            DataError: when an image cannot be decoded and is not to be left out, or the file
                cannot be written or does not read back as it was written.
        """
        path = self.folder / job.file
        if job.known is not None and _is_whole(path, job.known):
            for _ in job.indices:
                on_image()
            return job.known
        left_out: dict[str, str] = {}
        try:
            with atomic_file(path) as beside:
                written = self._write(beside, job, left_out, on_image)
                if _digest_of_records(beside) != written:
                    raise DataError(f"{path}: does not read back as it was written; check the disk")
                digest, size = _digest_of_file(beside), beside.stat().st_size
        # The library raises nothing else; the reason comes first in its message.
        except RuntimeError as error:
            first_line = str(error).partition("\n")[0]
            reason = first_line.partition(";")[0].removeprefix("write() failed: ")
            raise DataError(f"{path}: cannot be written: {reason}") from error
        images = len(job.indices) - len(left_out)
        return Shard(file=job.file, images=images, bytes=size, sha256=digest, left_out=left_out)

    def _write(
        self, file: Path, job: ShardJob, left_out: dict[str, str], on_image: Callable[[], None]
    ) -> str:
        """Write the images that can be decoded; return a digest of their records."""
        from array_record.python.array_record_module import ArrayRecordWriter

        source, digest = self.parts[job.part], hashlib.sha256()
        writer = ArrayRecordWriter(str(file), _WRITER_OPTIONS)
        for index in job.indices:
            name = source.names[index]
            try:
                content = source.content(index)
                EncodedImage(content, source.describe(index)).decode()
            except DataError as error:
                if not may_be_left_out(error, skip=self.skip_bad_images):
                    raise DataError(f"{error}; {REMEDY}") from error
                left_out[name] = str(error)
            else:
                record = encode_record(Record(name, int(source.labels[index]), content))
                digest.update(record)
                writer.write(record)
            on_image()
        writer.close()
        return digest.hexdigest()


def _digest_of_records(file: Path) -> str:
    """A digest of the records in a file.

    Raises:
        RuntimeError: when one is damaged.
    """
    digest = hashlib.sha256()
    for record in open_records([str(file)]):
        digest.update(record)
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path, known: Shard) -> bool:
    """Whether the file is as described, and lacks no image."""
    if known.left_out or not path.is_file() or path.stat().st_size != known.bytes:
        return False
    return _digest_of_file(path) == known.sha256
