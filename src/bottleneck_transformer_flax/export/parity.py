"""The proof of an exported file: it computes what ``apply`` does, on random and on real images."""

from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import NamedTuple

import jax
import numpy as np

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.decoding import DecodedImage, decode_image
from bottleneck_transformer_flax.errors import ExportError
from bottleneck_transformer_flax.export.functions import ExportedFunction

TOLERANCE = 1e-4
"""Largest difference of a float32 output, relative to its largest value where that is above 1."""
BATCH_SIZES = (1, 2, 5)
SAMPLES = ("cat.jpg", "coffee.jpg", "rocket.jpg")
"""Photographs that ship with the package."""


class Parity(NamedTuple):
    """How far an exported file is from the model.

    Attributes:
        differences: largest difference of each output, by its name, over all batches.
        batches: number of batches that were compared.
    """

    differences: dict[str, float]
    batches: int

    def __str__(self) -> str:
        """One line about the largest difference."""
        largest = max(self.differences.values())
        return f"largest difference {largest:.1e} over {self.batches} batches"


def check_parity(
    pretrained: Pretrained,
    function: ExportedFunction,
    run: Callable[[np.ndarray], Sequence[np.ndarray]],
) -> Parity:
    """Compare an exported file with the model, at batch 1, 2 and 5.

    Args:
        pretrained: the model.
        function: what was exported.
        run: from images to the outputs of the file, in the order of ``function.names``.

    Raises:
        ExportError: when an output differs by more than ``TOLERANCE``.
    """
    expected_of = jax.jit(function.call)
    differences = dict.fromkeys(function.names, 0.0)
    count = 0
    for images in _batches(pretrained, function):
        count += 1
        for name, expected, found in zip(
            function.names, expected_of(images), run(images), strict=True
        ):
            difference = _difference(np.asarray(expected), found)
            # NaN is no more than anything.
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"the exported {name} differ by {difference:.1e} from the model's for "
                    f"{len(images)} images; expected at most {TOLERANCE:g}. Please report this, "
                    "with the model's configuration"
                )
            differences[name] = max(differences[name], difference)
    return Parity(differences, count)


def sample_images() -> list[bytes]:
    """The photographs that ship with the package, as JPEG files."""
    folder = resources.files(__package__) / "samples"
    return [(folder / name).read_bytes() for name in SAMPLES]


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape:
        raise ExportError(
            f"an exported output has shape {found.shape}; expected {expected.shape}. Please report "
            "this, with the model's configuration"
        )
    return float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))


def _batches(pretrained: Pretrained, function: ExportedFunction) -> Iterator[np.ndarray]:
    """Batches of random and of real images, as the exported file takes them."""
    transform = EvaluationTransform(pretrained.preprocessing)
    real = [transform(DecodedImage(decode_image(content))) for content in sample_images()]
    random = np.random.default_rng(0)
    for size in BATCH_SIZES:
        noise = random.integers(256, size=(size, *function.image_size, 3), dtype=np.uint8)
        for images in (noise, np.stack((real * size)[:size])):
            if function.dtype == np.uint8:
                yield images
            else:
                yield pretrained.preprocessing.normalize(images)
