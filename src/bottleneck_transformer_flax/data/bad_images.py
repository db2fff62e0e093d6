"""What to do about images that cannot be read: stop, or count them and go on."""

from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import DataError


class BadImages:
    """The unreadable images met so far.

    Attributes:
        skip: whether they are collected; otherwise the first one stops the run.
        reasons: for each collected image, its path or place → why it cannot be read.
    """

    def __init__(self, *, skip: bool) -> None:
        """Start with none."""
        self.skip = skip
        self.reasons: dict[str, str] = {}

    def add(self, source: ImageSource, index: int) -> None:
        """Collect an image that could not be read.

        Raises:
            DataError: naming the image, when images are not to be skipped.
        """
        name = source.describe(index)
        if name not in self.reasons:
            self.reasons[name] = _reason(source, index)
        if not self.skip:
            raise DataError(
                f"{self.reasons[name]}; repair or remove the file, or leave such files out with "
                "--skip-bad-images"
            )

    def report(self) -> str:
        """How many images were left out, then each with its reason, in lines; empty for none."""
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
