"""StableHLO files, which ``jax.export.deserialize`` loads where only JAX is installed."""

from pathlib import Path

import jax
import numpy as np
from jax import export

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.errors import ExportError, require_extra
from bottleneck_transformer_flax.export.functions import Outputs, exported_function
from bottleneck_transformer_flax.export.parity import Parity, check_parity
from bottleneck_transformer_flax.files import atomic_file

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(pretrained: Pretrained, path: Path, *, outputs: Outputs = Outputs()) -> Parity:
    """Write a model for CPU, CUDA and TPU and any batch size, or nothing if its results differ.

    The function in the file takes images and returns {"probabilities": …}, or whatever ``outputs``
    asks for, by name. A file can be read by the JAX that wrote it and by those of the next six
    months.

    Raises:
        ExportError: when the extra is not installed, or the results differ.
    """
    require_extra("export", ["flatbuffers"], "a StableHLO file", ExportError)
    function = exported_function(pretrained, outputs)

    def named(images: jax.Array) -> dict[str, jax.Array]:
        return dict(zip(function.names, function.call(images), strict=True))

    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *function.image_size, 3), function.dtype)
    exported = export.export(jax.jit(named), platforms=PLATFORMS)(images)
    content = exported.serialize()
    with atomic_file(path) as beside:
        beside.write_bytes(content)
        call = export.deserialize(bytearray(beside.read_bytes())).call

        def run(images: np.ndarray) -> list[np.ndarray]:
            found = call(images)  # type: ignore[no-untyped-call]
            return [np.asarray(found[name]) for name in function.names]

        return check_parity(pretrained, function, run)
