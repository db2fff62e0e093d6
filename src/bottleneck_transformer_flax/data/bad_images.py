"""Images that cannot be read: the first one stops the run, or all are collected and skipped."""

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.data.workers import usable_cores
from bottleneck_transformer_flax.errors import DataError, OwnFigureError

REMEDY = "repair or remove it, or leave such images out with --skip-bad-images"
# Some thousands of small images, or some hundreds of photographs, are read in this time.
_MOST_CHECKED, _CHECK_SECONDS = 10_000, 5.0
_SECONDS_UNTIL_NAMED = 0.5
_log = logging.getLogger(__name__)


def check_images(sources: Sequence[ImageSource], process_shard: tuple[int, int] = (0, 1)) -> None:
    """Read this process's shard of a small data set's images, for up to five seconds.

    A bad image is then found before a program is compiled for the good ones. Of more than ten
    thousand images, and of images in memory, none is read.

    Raises:
        DataError: for the first image that cannot be read, with what to do about it.
    """
    files = [source for source in sources if source.native_size is None]
    if sum(map(len, files)) > _MOST_CHECKED:
        return
    images = [(source, index) for source in files for index in range(len(source))]
    deadline = time.monotonic() + _CHECK_SECONDS

    def check(image: tuple[ImageSource, int]) -> None:
        source, index = image
        if time.monotonic() < deadline:
            # An eighth of a JPEG's size takes a third of the time, and all of the file.
            with contextlib.suppress(OwnFigureError):
                source.open(index).decode(8)

    process, processes = process_shard
    with ThreadPoolExecutor(usable_cores()) as executor:
        try:
            for _ in executor.map(check, images[process::processes]):
                pass
        except DataError as error:
            raise DataError(f"{error}; {REMEDY}") from error


class BadImages:
    """Unreadable images met so far.

    Attributes:
        skip: whether to continue without them; otherwise the first one is an error, unless it is
            a figure that this package drew.
        reasons: for each image, its description → why it cannot be read.
    """

    def __init__(self, *, skip: bool) -> None:
        """Start with none."""
        self.skip = skip
        self.reasons: dict[str, str] = {}
        self._error: DataError | None = None
        self._note: threading.Timer | None = None
        self._lock = threading.Lock()

    def add(self, source: ImageSource, index: int) -> None:
        """Collect an image that could not be read.

        Raises:
            DataError: naming the image, unless such images are skipped.
        """
        name = source.describe(index)
        if name in self.reasons:
            return
        error = _error(source, index)
        self.reasons[name] = str(error)
        if not may_be_left_out(error, skip=self.skip):
            self._raise(DataError(f"{error}; {REMEDY}"))

    def meet(self, source: ImageSource, indices: Sequence[int]) -> None:
        """Note which images of a batch a thread that reads ahead could not read.

        Unless such images are skipped, ``raise_met`` raises an error about the first. Where it is
        not called within half a second, as during a compilation, a note names the image.
        """
        if self.skip or not indices:
            return
        with self._lock:
            if self._error is not None:
                return
            errors = (_error(source, index) for index in indices)
            error = next((each for each in errors if not may_be_left_out(each, skip=False)), None)
            if error is None:
                return
            self._error = DataError(f"{error}; {REMEDY}")
            note = f"{error}; this stops the run when the step under way is done"
            self._note = threading.Timer(_SECONDS_UNTIL_NAMED, _log.warning, (note,))
            self._note.daemon = True
            self._note.start()

    def raise_met(self) -> None:
        """Raise the error about the first image met, even before its batch is due.

        Raises:
            DataError: naming the image.
        """
        if self._error is not None:
            self._raise(self._error)

    def _raise(self, error: DataError) -> NoReturn:
        with self._lock:
            # What is met from now on needs no note.
            self._error = error
            if self._note is not None:
                self._note.cancel()
        raise error

    def report(self) -> str:
        """The number of images left out, then a line for each with the reason; empty for none."""
        if not self.reasons:
            return ""
        count = len(self.reasons)
        what = (
            "1 image could not be read and was"
            if count == 1
            else f"{count} images could not be read and were"
        )
        return "\n".join([f"{what} left out:", *(f"  {why}" for why in self.reasons.values())])


def may_be_left_out(error: DataError, *, skip: bool) -> bool:
    """Whether an unreadable image is left out, which this package's own figures always are."""
    return skip or isinstance(error, OwnFigureError)


def _error(source: ImageSource, index: int) -> DataError:
    try:
        source.read(index)
    except DataError as error:
        return error
    name = source.describe(index)
    return DataError(f"{name}: could not be read when its turn came, but can be now")
