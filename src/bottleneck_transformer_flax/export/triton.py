"""A model repository for NVIDIA Triton Inference Server and KServe."""

import json
from pathlib import Path

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.errors import ExportError, one_line
from bottleneck_transformer_flax.export.functions import Outputs, exported_function
from bottleneck_transformer_flax.export.onnx import write_onnx
from bottleneck_transformer_flax.export.parity import Parity
from bottleneck_transformer_flax.files import atomic_directory
from bottleneck_transformer_flax.inference.onnx_model import INPUT

_CONFIG, _LABELS = "config.pbtxt", "labels.txt"
_MAX_BATCH_SIZE = 32
_MAX_QUEUE_DELAY_MICROSECONDS = 2000
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def write_triton(
    pretrained: Pretrained,
    repository: Path,
    *,
    name: str,
    outputs: Outputs = Outputs(),
    variant: str | None = None,
    origin: str | None = None,
    licence: str | None = None,
) -> Parity:
    """Write ``REPOSITORY/NAME``: the model as version 1 in ONNX, its configuration and its labels.

    Requests are batched as they come. A model of the same name is replaced, and others in the
    repository stay.

    Args:
        pretrained: the model.
        repository: folder of models.
        name: the model's name.
        outputs: what the model takes and gives.
        variant: as for ``write_onnx``, and so are the others.
        origin: see there.
        licence: see there.

    Raises:
        ExportError: when something else is in the way, or as ``write_onnx``.
    """
    folder = repository / name
    if folder.exists() and not (folder / _CONFIG).is_file():
        raise ExportError(f"{folder} is no model of Triton's; choose another --name or --out")
    with atomic_directory(folder) as beside:
        (beside / "1").mkdir()
        parity = write_onnx(
            pretrained,
            beside / "1" / "model.onnx",
            outputs=outputs,
            variant=variant,
            origin=origin,
            licence=licence,
        )
        (beside / _CONFIG).write_text(_config(pretrained, name, outputs), encoding="utf-8")
        labels = "".join(f"{one_line(label)}\n" for label in pretrained.classes)
        (beside / _LABELS).write_text(labels, encoding="utf-8")
    return parity


def _config(pretrained: Pretrained, name: str, outputs: Outputs) -> str:
    """The model's configuration, in the text format of protocol buffers."""
    function = exported_function(pretrained, outputs)
    shapes = function.output_shapes()
    height, width = function.image_size
    entries = []
    for index, (output, shape) in enumerate(zip(function.names, shapes, strict=True)):
        label = f'\n    label_filename: "{_LABELS}"' if index == 0 else ""
        entries.append(
            f'  {{\n    name: "{output}"\n    data_type: TYPE_FP32\n'
            f"    dims: {list(shape)}{label}\n  }}"
        )
    listed = ",\n".join(entries)
    return f"""name: {json.dumps(name)}
backend: "onnxruntime"
max_batch_size: {_MAX_BATCH_SIZE}
input [
  {{
    name: "{INPUT}"
    data_type: {_TYPES[function.dtype.name]}
    dims: [{height}, {width}, 3]
  }}
]
output [
{listed}
]
dynamic_batching {{
  max_queue_delay_microseconds: {_MAX_QUEUE_DELAY_MICROSECONDS}
}}
"""
