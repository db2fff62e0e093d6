"""What to do about images that cannot be read: stop, or count them and go on."""

from bottleneck_transformer_flax.data.batches import Batch, bad_images
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import DataError


class BadImages:
    """The unreadable images met so far.

    Attributes:
        skip: whether they are collected; otherwise the first one stops the run.
        reasons: for each collected image, what to call it → why it cannot be read.
    """

    def __init__(self, *, skip: bool) -> None:
        """With nothing met yet."""
        self.skip = skip
        self.reasons: dict[str, str] = {}

    def check(self, batch: Batch, source: ImageSource) -> None:
        """Look through a batch of ``source``.

        Raises:
            DataError: naming the first unreadable image, where they are not to be skipped.
        """
        for index in bad_images(batch):
            name = source.describe(index)
            if name not in self.reasons:
                self.reasons[name] = _reason(source, index)
            if not self.skip:
                raise DataError(
                    f"{self.reasons[name]}; mend or remove the file, or leave such files out "
                    "with --skip-bad-images"
                )

    def report(self) -> str:
        """Several lines: how many there were, then each with its reason; empty for none."""
        if not self.reasons:
            return ""
        count = len(self.reasons)
        what = (
            "1 image could not be read and was"
            if count == 1
            else f"{count} images could not be read and were"
        )
        lines = [f"{what} left out:"]
        return "\n".join([*lines, *(f"  {reason}" for reason in self.reasons.values())])


def _reason(source: ImageSource, index: int) -> str:
    try:
        source.read(index)
    except DataError as error:
        return str(error)
    return f"{source.describe(index)}: could not be read when its turn came, but can be now"
