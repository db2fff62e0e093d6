"""ONNX files: the model with its preprocessing, for onnxruntime, OpenVINO and browsers.

jax2onnx writes the graph, and onnxruntime's own optimizer cleans it. Needs the extra "export".
"""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.errors import ExportError, require_extra
from bottleneck_transformer_flax.export.functions import (
    ExportedFunction,
    Outputs,
    exported_function,
)
from bottleneck_transformer_flax.export.parity import Parity, check_parity
from bottleneck_transformer_flax.files import atomic_file
from bottleneck_transformer_flax.inference.onnx_model import (
    INPUT,
    METADATA_KEY,
    OnnxMetadata,
    new_session,
)
from bottleneck_transformer_flax.own_output import SOFTWARE

OPSET = 21
"""The newest that onnxruntime 1.18 and OpenVINO 2024 load."""


def write_onnx(
    pretrained: Pretrained,
    path: Path,
    *,
    outputs: Outputs = Outputs(),
    variant: str | None = None,
    origin: str | None = None,
    licence: str | None = None,
) -> Parity:
    """Write a model as one ``.onnx`` file, whose results are those of ``apply``, or none at all.

    The batch size is left open. The file's metadata hold the class names and the preprocessing.

    Args:
        pretrained: the model.
        path: the file.
        outputs: what the file takes and gives.
        variant: name of the architecture.
        origin: where the weights come from.
        licence: licence of the weights.

    Returns:
        How far the file's results are from those of ``apply``.

    Raises:
        ExportError: when the extra is not installed, or the results differ.
    """
    require_extra("export", ["jax2onnx", "onnxruntime"], "an ONNX file", ExportError)
    import onnx

    function = exported_function(pretrained, outputs)
    metadata = OnnxMetadata(
        preprocessing=pretrained.preprocessing,
        classes=pretrained.classes,
        raw=outputs.raw,
        variant=variant,
        origin=origin,
        licence=licence,
    )
    graph = _clean(_traced(function))
    graph.producer_name = SOFTWARE
    onnx.helper.set_model_props(graph, {METADATA_KEY: metadata.to_text()})
    with atomic_file(path) as beside:
        onnx.save_model(graph, beside)
        session = new_session(beside)
        return check_parity(pretrained, function, lambda images: session.run(None, {INPUT: images}))


def _traced(function: ExportedFunction) -> Any:
    """The graph as jax2onnx writes it, with what it computes or holds twice once."""
    # It says for each shape that it computes that this has no type.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        # jax2onnx's own code relies on both.
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        warnings.simplefilter("ignore")
        import onnx_ir
        from jax2onnx import to_onnx
        from onnx_ir.passes import common

        images = jax.ShapeDtypeStruct(("b", *function.image_size, 3), function.dtype)
        model = to_onnx(
            function.call,
            inputs=[images],
            opset=OPSET,
            input_names=[INPUT],
            output_names=list(function.names),
            return_mode="ir",
        )
        common.DeduplicateInitializersPass(size_limit=2**31)(model)
        common.CommonSubexpressionEliminationPass()(model)
        return onnx_ir.to_proto(model)


def _clean(graph: Any) -> Any:
    """The graph with constants folded, and without unused nodes and initializers.

    Only what holds on every machine: no layout or fusion that one kind of processor likes.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save_model(graph, before)
        session = onnxruntime.SessionOptions()
        session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session.optimized_model_filepath = str(after)
        session.log_severity_level = 3
        onnxruntime.InferenceSession(before, session, providers=["CPUExecutionProvider"])
        return onnx.load_model(after)
