"""Models that score images, whatever computes them: JAX, onnxruntime or OpenVINO."""

from pathlib import Path
from typing import Literal, Protocol, cast, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained, at_size
from bottleneck_transformer_flax.conversion.loading import load_pretrained
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.inference.engine import Engine, Scores
from bottleneck_transformer_flax.inference.onnx_model import OnnxModel
from bottleneck_transformer_flax.layers.conv_algorithms import compiler_options
from bottleneck_transformer_flax.models.surgery import Variables, fold_batch_norm
from bottleneck_transformer_flax.preprocessing import Preprocessing

EngineName = Literal["jax", "onnxruntime", "openvino"]


@runtime_checkable
class Model(Protocol):
    """A trained model, as predicting and evaluating need it.

    Attributes:
        preprocessing: how images become its input.
        classes: name of each output.
    """

    preprocessing: Preprocessing
    classes: tuple[str, ...]

    def score(self, images: UInt8[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"]) -> Scores:
        """Score RGB images in [0, 255] of the model's size, whose labels may be ``NO_LABEL``."""
        ...

    def features(self, images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b features"]:
        """Pooled features of such images: what the classifier's last layer gets."""
        ...


class FlaxModel:
    """A model that JAX computes, with its batch norms folded; compiled once for a batch size."""

    def __init__(self, pretrained: Pretrained, *, top_k: int = 5) -> None:
        """Fold the norms; compile nothing yet.

        Args:
            pretrained: model with its preprocessing and class names.
            top_k: number of classes to rank; all of the model's if it has fewer.
        """
        self.preprocessing, self.classes = pretrained.preprocessing, pretrained.classes
        model, self._variables = fold_batch_norm(pretrained.model, pretrained.variables)
        self._engine = Engine(model, self.preprocessing, top_k=min(top_k, len(self.classes)))

        def features(variables: Variables, images: jax.Array) -> jax.Array:
            inputs = self.preprocessing.normalize(images)
            return cast(jax.Array, model.apply(variables, inputs, method="pooled_features"))

        self._features = jax.jit(features, compiler_options=compiler_options())

    def score(self, images: UInt8[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"]) -> Scores:
        """See ``Model``."""
        return self._engine(self._variables, images, labels)

    def features(self, images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b features"]:
        """See ``Model``."""
        return np.asarray(self._features(self._variables, images))


def load_model(
    source: str | Path | Pretrained,
    *,
    image_size: tuple[int, int] | None = None,
    top_k: int = 5,
    engine: EngineName | None = None,
) -> Model:
    """Load a model to score images with; see ``Predictor`` for the arguments.

    Raises:
        CheckpointError: when the source cannot be loaded.
        ConfigError: when the engine cannot run the source, or the size is not the file's.
    """
    is_file = not isinstance(source, Pretrained) and Path(source).suffix == ".onnx"
    if is_file != (engine not in (None, "jax")) and engine is not None:
        raise ConfigError(
            f"engine is {engine!r}, which does not run {source}; "
            + (
                "expected onnxruntime or openvino for an .onnx file"
                if is_file
                else "expected jax, or an .onnx file that `botnet export --format onnx` writes"
            )
        )
    if is_file:
        assert not isinstance(source, Pretrained) and engine != "jax"
        model = OnnxModel(Path(source), top_k=top_k, engine=engine or "onnxruntime")
        if image_size not in (None, model.preprocessing.size):
            height, width = model.preprocessing.size
            raise ConfigError(
                f"image_size is {image_size}, but {source} is for {height} × {width} pixels; "
                "export the model again with --image-size"
            )
        return model
    if not isinstance(source, Pretrained):
        source = load_pretrained(source, image_size=image_size)
    elif image_size is not None:
        source = at_size(source, image_size)
    return FlaxModel(source, top_k=top_k)
