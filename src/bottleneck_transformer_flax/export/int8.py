"""Static quantisation to 8 bits by onnxruntime's own tools, and what it costs and gains.

Convolutions and products with weights are quantised (QDQ, weights by channel). The first
convolution, which has three channels and sees the pixels, and what has no weights, attention's
products and its softmax, stay in float32.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.data.bad_images import BadImages
from bottleneck_transformer_flax.data.sources.base import ImageSource, select
from bottleneck_transformer_flax.evaluation.evaluator import batches_of, evaluate
from bottleneck_transformer_flax.evaluation.predictions import Predictions
from bottleneck_transformer_flax.export.onnx import write_onnx
from bottleneck_transformer_flax.files import atomic_file
from bottleneck_transformer_flax.inference.onnx_model import INPUT, OnnxModel, new_session

CALIBRATION_IMAGES = 256
"""Images that the ranges of the activations are taken from, spread over the training images."""
TIMED_BATCH_SIZES = (1, 8)
_ROUNDS = 15
_BATCH_SIZE = 32


class Measured(NamedTuple):
    """One of the two files.

    Attributes:
        predictions: its predictions on the images that score both.
        size_bytes: its size.
        images_per_second: by batch size, in onnxruntime; medians of rounds in turns.
    """

    predictions: Predictions
    size_bytes: int
    images_per_second: dict[int, float]


class Quantised(NamedTuple):
    """The quantised file beside float32's."""

    int8: Measured
    float32: Measured


def write_int8(
    pretrained: Pretrained,
    path: Path,
    calibration: ImageSource,
    scored: ImageSource,
    *,
    num_workers: int | None = None,
    bad_images: BadImages | None = None,
    **described: Any,
) -> Quantised:
    """Write a quantised ``.onnx`` file, and compare it with that of float32 on the same images.

    Args:
        pretrained: the model.
        path: the file.
        calibration: images that the ranges of the activations are taken from.
        scored: labelled images that score both files.
        num_workers: processes that read images.
        bad_images: whether images that cannot be read are left out.
        described: variant, origin and licence, as for ``write_onnx``.

    Raises:
        ExportError: as ``write_onnx``.
    """
    with tempfile.TemporaryDirectory() as folder, atomic_file(path) as beside:
        exact = Path(folder, "float32.onnx")
        write_onnx(pretrained, exact, **described)
        batches = _calibration_batches(pretrained, calibration, num_workers, bad_images)
        _quantise(exact, beside, batches)
        files = beside, exact
        speeds = _speeds(files, pretrained.preprocessing.size)
        measured = []
        for file, speed in zip(files, speeds, strict=True):
            predictions = evaluate(
                OnnxModel(file).score,
                scored,
                pretrained.preprocessing,
                num_classes=len(pretrained.classes),
                batch_size=_BATCH_SIZE,
                num_workers=num_workers,
                bad_images=bad_images,
            )
            assert predictions is not None  # Nothing asked it to stop.
            measured.append(Measured(predictions, file.stat().st_size, speed))
        return Quantised(*measured)


def _calibration_batches(
    pretrained: Pretrained,
    source: ImageSource,
    num_workers: int | None,
    bad_images: BadImages | None,
) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    count = min(CALIBRATION_IMAGES, len(source))
    spread = select(source, np.arange(count) * len(source) // count)
    for batch in batches_of(
        spread,
        pretrained.preprocessing,
        batch_size=_BATCH_SIZE,
        num_workers=num_workers,
        bad_images=bad_images,
    ):
        yield batch["image"][batch["valid"]]


def _quantise(exact: Path, path: Path, batches: Iterator[np.ndarray]) -> None:
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            images = next(batches, None)
            return None if images is None else {INPUT: images}

    prepared = path.with_name(f"{path.name}.prepared")
    try:
        quant_pre_process(exact, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared)
        _leave_out_scalar_biases(graph)
        onnx.save(graph, prepared)
        quantization.quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=_kept_in_float32(graph),
        )
    finally:
        prepared.unlink(missing_ok=True)


def _leave_out_scalar_biases(graph: Any) -> None:
    """Attention's projections have no bias, for which jax2onnx adds a scalar zero.

    onnxruntime's tools expect a vector or nothing.
    """
    scalars = {one.name: one for one in graph.graph.initializer if not one.dims}
    for node in graph.graph.node:
        if node.op_type == "Gemm" and len(node.input) == 3 and node.input[2] in scalars:
            del node.input[2]
    used = {name for node in graph.graph.node for name in node.input}
    for name, scalar in scalars.items():
        if name not in used:
            graph.graph.initializer.remove(scalar)


def _kept_in_float32(graph: Any) -> list[str]:
    """Names of the first convolution and of attention's products, which have no matrix of weights.

    Those of queries with relative embeddings have a matrix for each row or column.
    """
    weights = {one.name for one in graph.graph.initializer if len(one.dims) == 2}
    convolutions = [node.name for node in graph.graph.node if node.op_type == "Conv"]
    products = [
        node.name
        for node in graph.graph.node
        if node.op_type in ("MatMul", "Gemm") and not weights & set(node.input)
    ]
    return [*convolutions[:1], *products]


def _speeds(files: tuple[Path, ...], size: tuple[int, int]) -> list[dict[int, float]]:
    """Images per second of each file by batch size; the files take turns."""
    sessions = [new_session(file) for file in files]
    found: list[dict[int, float]] = [{} for _ in files]
    for batch_size in TIMED_BATCH_SIZES:
        images = np.random.default_rng(0).integers(256, size=(batch_size, *size, 3), dtype=np.uint8)
        seconds: list[list[float]] = [[] for _ in files]
        # The first round warms up.
        for _ in range(1 + _ROUNDS):
            for session, taken in zip(sessions, seconds, strict=True):
                started = time.perf_counter()
                session.run(None, {INPUT: images})
                taken.append(time.perf_counter() - started)
        for each, taken in zip(found, seconds, strict=True):
            each[batch_size] = batch_size / statistics.median(taken[1:])
    return found
