"""Exported ``.onnx`` files, run by onnxruntime or OpenVINO."""

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from bottleneck_transformer_flax.errors import (
    BoTNetError,
    CheckpointError,
    ConfigError,
    require_extra,
    reraise,
)
from bottleneck_transformer_flax.inference.engine import Scores
from bottleneck_transformer_flax.own_output import SOFTWARE
from bottleneck_transformer_flax.preprocessing import Preprocessing

INPUT, PROBABILITIES, LOGITS, FEATURES = "images", "probabilities", "logits", "features"
"""Names of the input and of the outputs of an exported model."""
METADATA_KEY = SOFTWARE
"""Key of the metadata in a file."""
OnnxEngine = Literal["onnxruntime", "openvino"]
Run = Callable[[np.ndarray], dict[str, np.ndarray]]
_SMALLEST = np.finfo(np.float32).tiny


@dataclass(frozen=True, kw_only=True)
class OnnxMetadata:
    """What a file says of itself.

    Attributes:
        preprocessing: how images become model input, and logits probabilities.
        classes: name of each output.
        raw: whether the file takes normalised float32 images and gives logits; else it takes uint8
            images and gives probabilities.
        variant: name of the architecture.
        origin: where the weights come from.
        licence: licence of the weights.
    """

    preprocessing: Preprocessing
    classes: tuple[str, ...]
    raw: bool
    variant: str | None
    origin: str | None
    licence: str | None

    def to_text(self) -> str:
        """Write as JSON."""
        values = asdict(self) | {"preprocessing": self.preprocessing.to_json()}
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> "OnnxMetadata":
        """Read what ``to_text`` wrote.

        Raises:
            CheckpointError: when it is anything else.
        """
        with reraise(Exception, CheckpointError, "its metadata cannot be read"):
            values = json.loads(text)
            preprocessing = Preprocessing.from_json(values.pop("preprocessing"))
            classes = tuple(map(str, values.pop("classes")))
            return cls(preprocessing=preprocessing, classes=classes, **values)


class OnnxModel:
    """An ``.onnx`` file that ``botnet export`` wrote, as a ``Model``."""

    def __init__(self, path: Path, *, top_k: int = 5, engine: OnnxEngine = "onnxruntime") -> None:
        """Load the file.

        Args:
            path: the file.
            top_k: number of classes to rank; all of the model's if it has fewer.
            engine: what runs it.

        Raises:
            CheckpointError: when the file is missing, damaged, or of another origin.
            ConfigError: when the engine is not installed.
        """
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; expected an .onnx file")
        text, self._run = _ENGINES[engine](path)
        if text is None:
            raise CheckpointError(
                f"{path} does not say how images become its input, for it was not written by "
                "`botnet export`; export the model again with `botnet export --format onnx`"
            )
        try:
            self.metadata = OnnxMetadata.from_text(text)
        except BoTNetError as error:
            raise CheckpointError(f"{path}: {error}") from error
        self.preprocessing, self.classes = self.metadata.preprocessing, self.metadata.classes
        self._path, self._top_k = path, min(top_k, len(self.classes))

    def score(self, images: UInt8[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"]) -> Scores:
        """See ``Model``; probabilities below float32's smallest count as that in the losses."""
        found = self._outputs(images)
        temperature = np.float32(self.preprocessing.temperature)
        if self.metadata.raw:
            logits = found[LOGITS]
            probabilities = np.exp(_log_softmax(logits / temperature))
        else:
            probabilities = found[PROBABILITIES]
            # But for a constant, which the softmax of the loss takes out again.
            logits = temperature * np.log(np.maximum(probabilities, _SMALLEST))
        classes = np.argsort(-probabilities, axis=1, kind="stable")[:, : self._top_k]
        losses = -np.take_along_axis(_log_softmax(logits), np.maximum(labels, 0)[:, None], axis=1)
        top = np.take_along_axis(probabilities, classes, axis=1)
        return Scores(classes, top, logits[:, :0], losses[:, 0], labels)

    def features(self, images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b features"]:
        """See ``Model``.

        Raises:
            ConfigError: when the file has none.
        """
        found = self._outputs(images)
        if FEATURES not in found:
            raise ConfigError(
                f"{self._path} gives no features; export the model again with --with-features"
            )
        return found[FEATURES]

    def _outputs(self, images: UInt8[np.ndarray, "b h w c"]) -> dict[str, np.ndarray]:
        return self._run(self.preprocessing.normalize(images) if self.metadata.raw else images)


def new_session(path: Path) -> Any:
    """An onnxruntime session on the CPU, which warns of nothing."""
    require_extra("export", ["onnxruntime"], "an .onnx file", ConfigError)
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    # Errors only.
    session_options.log_severity_level = 3
    # Threads that spin while they wait take a core from those that decode images.
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with reraise(Exception, CheckpointError, f"{path} cannot be loaded as ONNX"):
        return onnxruntime.InferenceSession(
            path, session_options, providers=["CPUExecutionProvider"]
        )


def _load_onnxruntime(path: Path) -> tuple[str | None, Run]:
    """The metadata of a file, and a function that runs it."""
    session = new_session(path)
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {INPUT: images}), strict=True))

    return session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), run


def _load_openvino(path: Path) -> tuple[str | None, Run]:
    """As ``_load_onnxruntime``."""
    require_extra("openvino", ["openvino"], "engine openvino", ConfigError)
    # Importing openvino would send a report of its use over the network, where this is installed.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    with reraise(Exception, CheckpointError, f"{path} cannot be loaded as ONNX"):
        model = openvino.Core().read_model(path)

    @functools.cache
    def compiled(batch_size: int) -> Any:
        """The model for one batch size: for any, it takes a quarter longer."""
        fixed = model.clone()
        fixed.reshape([batch_size, *list(model.input(0).partial_shape)[1:]])
        # Some processors would compute in bfloat16 otherwise.
        precision = {"INFERENCE_PRECISION_HINT": "f32"}
        with reraise(Exception, CheckpointError, f"{path} cannot be run by OpenVINO"):
            return openvino.compile_model(fixed, "CPU", precision)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        function = compiled(len(images))
        found = function({INPUT: images})
        return {output.get_any_name(): np.asarray(found[output]) for output in function.outputs}

    entry = ["framework", METADATA_KEY]
    return model.get_rt_info(entry).astype(str) if model.has_rt_info(entry) else None, run


_ENGINES: dict[str, Callable[[Path], tuple[str | None, Run]]] = {
    "onnxruntime": _load_onnxruntime,
    "openvino": _load_openvino,
}


def _log_softmax(logits: Float[np.ndarray, "b classes"]) -> Float[np.ndarray, "b classes"]:
    below = logits - logits.max(axis=1, keepdims=True)
    return below - np.log(np.exp(below).sum(axis=1, keepdims=True))
