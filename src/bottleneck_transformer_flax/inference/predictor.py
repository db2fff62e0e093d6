"""Classification of images: files or pixels in, names and probabilities of classes out."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.decoding import DecodedImage, ImageInput, decode_image
from bottleneck_transformer_flax.errors import ConfigError, DataError
from bottleneck_transformer_flax.inference.engine import NO_LABEL
from bottleneck_transformer_flax.inference.models import EngineName, load_model

Ranking = tuple[tuple[str, float], ...]
Pixels = UInt8[np.ndarray, "h w c"]
Source = TypeVar("Source")
Result = TypeVar("Result")


class Prediction(NamedTuple):
    """What a model says about one image.

    Attributes:
        ranking: likeliest classes with their probabilities, best first; empty if there is an error.
        error: why the image cannot be read; None if it can.
    """

    ranking: Ranking
    error: DataError | None = None


class ImageFeatures(NamedTuple):
    """Pooled features of one image.

    Attributes:
        features: what the classifier's last layer gets; None if there is an error.
        error: why the image cannot be read; None if it can.
    """

    features: Float[np.ndarray, " features"] | None
    error: DataError | None = None


class Predictor:
    """Classifies images as ``botnet evaluate`` does, with JAX or from an exported file.

    Images are decoded in threads while the model computes. An image that cannot be read is an error
    in its own prediction, and the others are classified.

        predictor = Predictor("botnet_tiny")
        (prediction,) = predictor(["photo.jpg"])
        prediction.ranking[0]  # ("sandal", 0.97)
    """

    def __init__(
        self,
        source: str | Path | Pretrained,
        *,
        image_size: tuple[int, int] | None = None,
        batch_size: int = 32,
        top_k: int = 5,
        engine: EngineName | None = None,
    ) -> None:
        """Load the model; compile nothing yet.

        Args:
            source: pretrained directory, run, repository of the Hugging Face hub, model that ships
                with the package, ``.onnx`` file that ``botnet export`` wrote, or a loaded model.
            image_size: (height, width) to run the model at, as for ``load_pretrained``.
            batch_size: most images computed together; fewer are padded to a batch size that is
                compiled already, or else to the next power of two.
            top_k: number of classes to rank; all of the model's if it has fewer.
            engine: "onnxruntime" or "openvino" for an ``.onnx`` file; by default onnxruntime.

        Raises:
            CheckpointError: when the source cannot be loaded.
            ConfigError: when an option has a value that is not allowed.
        """
        for name, value in (("batch_size", batch_size), ("top_k", top_k)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; expected at least 1")
        self.batch_size = batch_size
        self._model = load_model(source, image_size=image_size, top_k=top_k, engine=engine)
        self._transform = EvaluationTransform(self._model.preprocessing)
        self._compiled_sizes: set[int] = set()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the model's classes."""
        return self._model.classes

    def __call__(self, images: Iterable[ImageInput]) -> list[Prediction]:
        """Classify every image: paths, bytes, binary files, Pillow images or uint8 RGB arrays."""
        return list(self.stream(images))

    def stream(self, images: Iterable[ImageInput | DataError]) -> Iterator[Prediction]:
        """Classify images that come one by one, in their order, a batch at a time.

        At most a few batches are read ahead, so the images may be endless. An error among them is
        that of its prediction.
        """
        for batch in self._batches(images):
            rankings = iter(self._over(batch, self._rank))
            for pixels in batch:
                if isinstance(pixels, DataError):
                    yield Prediction((), pixels)
                else:
                    yield Prediction(next(rankings))

    def features(self, images: Iterable[ImageInput | DataError]) -> Iterator[ImageFeatures]:
        """Pooled features of images that come one by one, as ``stream`` classifies them.

        Raises:
            ConfigError: when the model is an exported file without features.
        """
        for batch in self._batches(images):
            rows = iter(self._over(batch, self._model.features))
            for pixels in batch:
                if isinstance(pixels, DataError):
                    yield ImageFeatures(None, pixels)
                else:
                    yield ImageFeatures(next(rows))

    def _batches(
        self, images: Iterable[ImageInput | DataError]
    ) -> Iterator[list[Pixels | DataError]]:
        """Pixels of the model's size, or errors, up to ``batch_size`` at a time."""
        decoded = decode_ahead(images, self._pixels, 2 * self.batch_size)
        while batch := list(itertools.islice(decoded, self.batch_size)):
            yield batch

    def _pixels(self, image: ImageInput | DataError) -> Pixels | DataError:
        if isinstance(image, DataError):
            return image
        try:
            return self._transform(DecodedImage(decode_image(image)))
        except DataError as error:
            return error

    def _over(
        self, batch: list[Pixels | DataError], compute: Callable[[np.ndarray], Iterable[Result]]
    ) -> list[Result]:
        """A result for each image of a batch that could be read."""
        pixels = [image for image in batch if not isinstance(image, DataError)]
        if not pixels:
            return []
        size = self._size_for(len(pixels))
        padded = np.pad(np.stack(pixels), [(0, size - len(pixels)), *[(0, 0)] * 3])
        # Padding comes last.
        return list(itertools.islice(compute(padded), len(pixels)))

    def _rank(self, images: UInt8[np.ndarray, "b h w c"]) -> list[Ranking]:
        scores = self._model.score(images, np.full(len(images), NO_LABEL))
        return [
            tuple((self.classes[index], value) for index, value in zip(*row, strict=True))
            for row in zip(scores.classes.tolist(), scores.probabilities.tolist(), strict=True)
        ]

    def _size_for(self, count: int) -> int:
        """Choose the batch size to pad ``count`` images to."""
        if all(size < count for size in self._compiled_sizes):
            next_power_of_two = 1 << (count - 1).bit_length()
            self._compiled_sizes.add(min(self.batch_size, next_power_of_two))
        return min(size for size in self._compiled_sizes if size >= count)


def decode_ahead(
    images: Iterable[Source], decode: Callable[[Source], Result], ahead: int
) -> Iterator[Result]:
    """Decode images in their order, in one thread for each core, some of them ahead of their turn.

    Pillow decodes and resizes without Python's global lock, so threads are enough.
    """
    waiting: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        for image in images:
            waiting.append(threads.submit(decode, image))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
