"""Images that cannot be read: the first one stops the run, or all are collected and skipped."""

from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import DataError

REMEDY = "repair or remove it, or leave such images out with --skip-bad-images"


class BadImages:
    """Unreadable images met so far.

    Attributes:
        skip: whether to continue without them; otherwise the first one is an error.
        reasons: for each image, its description → why it cannot be read.
    """

    def __init__(self, *, skip: bool) -> None:
        """Start with none."""
        self.skip = skip
        self.reasons: dict[str, str] = {}

    def add(self, source: ImageSource, index: int) -> None:
        """Collect an image that could not be read.

        Raises:
            DataError: naming the image, unless such images are skipped.
        """
        name = source.describe(index)
        if name not in self.reasons:
            self.reasons[name] = _reason(source, index)
        if not self.skip:
            raise DataError(f"{self.reasons[name]}; {REMEDY}")

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


def _reason(source: ImageSource, index: int) -> str:
    try:
        source.read(index)
    except DataError as error:
        return str(error)
    return f"{source.describe(index)}: could not be read when its turn came, but can be now"
