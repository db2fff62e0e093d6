"""Classification of images: pixels in, names and probabilities of classes out."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bottleneck_transformer_flax.augmentation.image import EvaluationTransform
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.decoding import DecodedImage
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.inference.engine import NO_LABEL, Engine
from bottleneck_transformer_flax.models.surgery import fold_batch_norm

Ranking = list[tuple[str, float]]


class Predictor:
    """Classifies images with a pretrained model, compiled for only a few batch sizes."""

    def __init__(self, pretrained: Pretrained, *, batch_size: int = 32, top_k: int = 5) -> None:
        """Fold the model's batch norms; compile nothing yet.

        Args:
            pretrained: model with its preprocessing and class names.
            batch_size: most images computed together; fewer are padded to a batch size that is
                compiled already, or else to the next power of two.
            top_k: number of classes to rank; all of the model's if it has fewer.

        Raises:
            ConfigError: when ``batch_size`` or ``top_k`` is below 1.
        """
        for name, value in (("batch_size", batch_size), ("top_k", top_k)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; expected at least 1")
        _, _, preprocessing, self.classes = pretrained
        model, self._variables = fold_batch_norm(pretrained.model, pretrained.variables)
        self._transform = EvaluationTransform(preprocessing)
        self.batch_size = batch_size
        self._engine = Engine(model, preprocessing, top_k=min(top_k, len(self.classes)))
        self._compiled_sizes: set[int] = set()

    def __call__(self, images: Sequence[Image.Image]) -> list[Ranking]:
        """Rank the likeliest classes of every RGB image, best first."""
        rankings: list[Ranking] = []
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            pixels = np.stack([self._transform(DecodedImage(image)) for image in part])
            size = self._size_for(len(part))
            padded = np.pad(pixels, [(0, size - len(part)), *[(0, 0)] * 3])
            scores = self._engine(self._variables, padded, np.full(size, NO_LABEL))
            # Padding comes last: zip leaves it out.
            for classes, probabilities in zip(
                scores.classes[: len(part)].tolist(), scores.probabilities.tolist(), strict=False
            ):
                names = [self.classes[index] for index in classes]
                rankings.append(list(zip(names, probabilities, strict=True)))
        return rankings

    def _size_for(self, count: int) -> int:
        """Choose the batch size to pad ``count`` images to."""
        if all(size < count for size in self._compiled_sizes):
            next_power_of_two = 1 << (count - 1).bit_length()
            self._compiled_sizes.add(min(self.batch_size, next_power_of_two))
        return min(size for size in self._compiled_sizes if size >= count)
