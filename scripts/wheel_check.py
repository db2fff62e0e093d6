"""What a user of the installed package does first; run it from a folder without the source."""

import json
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from bottleneck_transformer_flax import BoTNet, BoTNetConfig, load_pretrained


def main() -> None:
    package = Path(str(files("bottleneck_transformer_flax")))
    assert "site-packages" in package.parts, f"the source tree is tested, not the wheel: {package}"
    assert (package / "py.typed").is_file(), "py.typed is missing from the wheel"
    check_snippet()
    check_command_line()
    print("the wheel works: 1 passed, 0 failed")


def check_snippet() -> None:
    rng = jax.random.key(0)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 256, 256, 3)), jnp.float32)
    config = BoTNetConfig(
        stage_sizes=[3, 4, 23, 12], num_classes=1000, stride_one=True, se_ratio=0.0625
    )
    model = BoTNet(config=config)
    variables = model.init(rng, jnp.ones((1, 256, 256, 3), dtype=config.dtype))
    logits = cast(jax.Array, model.apply(variables, images))
    assert logits.shape == (2, 1000) and logits.dtype == jnp.float32, (logits.shape, logits.dtype)
    assert bool(jnp.isfinite(logits).all())


def check_command_line() -> None:
    assert load_pretrained("botnet_tiny").model.config.num_classes == 10
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "grey.png"
        Image.new("L", (28, 28), 128).save(image)
        lines = subprocess.run(
            ["botnet", "predict", "--json", str(image)],
            check=True,
            capture_output=True,
            text=True,
            cwd=folder,
        ).stdout.splitlines()
        assert len(json.loads(lines[0])["predictions"]) == 5, lines
        result = subprocess.run(
            ["botnet", "evaluate", "--json"], check=True, capture_output=True, text=True, cwd=folder
        ).stdout
        assert json.loads(result)["count"] == 1000, result
        print(f"the model in the package: {json.loads(result)['top1']:.3f} top-1 on 1000 images")


if __name__ == "__main__":
    main()
