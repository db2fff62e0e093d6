"""Export whole networks with random weights to ONNX, StableHLO, HTML and Triton, and print how far
each file is from ``apply``, on random and on real images at batch 1, 2 and 5 (at most 1e-4).

    PYTHONPATH=tests .venv/bin/python scripts/check_exports.py [VARIANT …]

Without a name it takes botnet_t3, botnet50 and botnet26t_256; ``all`` is every variant. The suite
does the same with narrow networks.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from bottleneck_transformer_flax import BoTNet, Preprocessing
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.export.functions import Outputs
from bottleneck_transformer_flax.export.onnx import write_onnx
from bottleneck_transformer_flax.export.page import write_page
from bottleneck_transformer_flax.export.parity import Parity
from bottleneck_transformer_flax.export.stablehlo import write_stablehlo
from bottleneck_transformer_flax.export.triton import write_triton
from bottleneck_transformer_flax.models.variants import VARIANTS, get_variant
from reference.variables import random_variables

EVERYTHING = Outputs(features=True, attention=True)
FORMATS: dict[str, Callable[[Pretrained, Path], Parity]] = {
    "onnx": lambda model, out: write_onnx(model, out / "a.onnx", outputs=EVERYTHING),
    "onnx --raw": lambda model, out: write_onnx(model, out / "b.onnx", outputs=Outputs(raw=True)),
    "stablehlo": lambda model, out: write_stablehlo(model, out / "a.stablehlo"),
    "html": lambda model, out: write_page(model, out / "a.html", title="check")[1],
    "triton": lambda model, out: write_triton(model, out, name="check"),
}


def main(names: list[str]) -> None:
    if names == ["all"]:
        names = list(VARIANTS)
    print("largest difference".ljust(24), *(name.rjust(11) for name in FORMATS), "  seconds")
    for name in names or ["botnet_t3", "botnet50", "botnet26t_256"]:
        start, pretrained, worst = time.perf_counter(), with_random_weights(name), []
        for write in FORMATS.values():
            with tempfile.TemporaryDirectory() as folder:
                worst.append(max(write(pretrained, Path(folder)).differences.values()))
        took = time.perf_counter() - start
        print(name.ljust(24), *(f"{value:11.1e}" for value in worst), f"{took:9.0f}", flush=True)


def with_random_weights(name: str) -> Pretrained:
    """A variant at its own size, no branch of which is zero."""
    variant = get_variant(name)
    model = BoTNet(config=variant.config)
    images = jax.ShapeDtypeStruct((1, *variant.image_size, 3), jnp.float32)
    variables = random_variables(jax.eval_shape(model.init, jax.random.key(0), images))
    classes = tuple(map(str, range(variant.config.num_classes)))
    return Pretrained(model, variables, Preprocessing(size=variant.image_size), classes)


if __name__ == "__main__":
    main(sys.argv[1:])
