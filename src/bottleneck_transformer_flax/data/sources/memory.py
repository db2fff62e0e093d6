"""Images in memory, such as the data set in the package."""

import io
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.decoding import DecodedImage


@dataclass(frozen=True, eq=False)
class ArraySource(ImageSource):
    """Images in memory, all of one size.

    Attributes:
        images: grey (n, h, w) or RGB (n, h, w, 3) in [0, 255].
        labels: class of each image, an index into ``class_names``.
        class_names: names of the classes.
        name: name of the source in messages, such as "fashion-mnist test".
        names: names as of files, "000000.png" and so on.
    """

    images: UInt8[np.ndarray, "n h w"] | UInt8[np.ndarray, "n h w 3"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    name: str = "array"
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Name the images as if they were files."""
        object.__setattr__(self, "names", tuple(f"{index:06}.png" for index in range(len(self))))

    @property
    def native_size(self) -> tuple[int, int]:
        """The (height, width) of every image in pixels."""
        return self.images.shape[1], self.images.shape[2]

    def describe(self, index: int) -> str:
        """The image's place, as in "fashion-mnist test image 12"."""
        return f"{self.name} image {index}"

    def content(self, index: int) -> bytes:
        """One image as a PNG file."""
        file = io.BytesIO()
        self.read(index).save(file, "PNG")
        return file.getvalue()

    def open(self, index: int) -> DecodedImage:
        """One image."""
        image = Image.fromarray(self.images[index])
        return DecodedImage(image if image.mode == "RGB" else image.convert("RGB"))
