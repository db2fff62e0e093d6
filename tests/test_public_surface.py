"""What users import: lazily, and the README's own snippet as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import bottleneck_transformer_flax

FIXED = {
    "BoTNet",
    "BoTNetConfig",
    "get_config",
    "list_variants",
    "load_pretrained",
    "save_pretrained",
    "resize_relative_positions",
    "replace_head",
    "Predictor",
}

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        (
            "import bottleneck_transformer_flax as package; dir(package); package.__all__",
            ["jax", "flax", "numpy", "optax", "orbax", "matplotlib", "torch"],
        ),
        ("from bottleneck_transformer_flax import Preprocessing", ["jax", "flax"]),
        ("from bottleneck_transformer_flax import BoTNet, load_pretrained", ["torch", "timm"]),
        (
            "import bottleneck_transformer_flax.data.datasets",
            ["jax", "flax", "pyarrow", "array_record"],
        ),
    ],
)
def test_importing_a_name_imports_no_framework_that_it_does_not_need(statement, unwanted):
    code = f"{statement}\nimport sys\nprint([n for n in {unwanted} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_the_fixed_names_are_there():
    assert set(bottleneck_transformer_flax.__all__) >= FIXED
    assert sorted(bottleneck_transformer_flax.__all__) == dir(bottleneck_transformer_flax)


@pytest.mark.parametrize("name", sorted({*FIXED, *bottleneck_transformer_flax.__all__}))
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(bottleneck_transformer_flax, name)
    assert value.__module__.startswith("bottleneck_transformer_flax.")
    assert value.__doc__
    assert getattr(bottleneck_transformer_flax, name) is value


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"bottleneck_transformer_flax.*'BotNet'"):
        bottleneck_transformer_flax.BotNet  # noqa: B018
    with pytest.raises(ImportError):
        from bottleneck_transformer_flax import resize_positions  # noqa: F401


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.slow
def test_the_readmes_python_runs_verbatim(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "red").save("cat.jpg")
    first, second, third = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    names = {}
    exec(first, names)
    assert tuple(names["config"].stage_sizes) == (3, 4, 23, 12)
    logits = np.asarray(names["logits"])
    assert logits.shape == (2, 1000)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert logits.std() > 0

    exec(second, names)
    assert (names["logits"].shape, names["logits"].dtype) == ((8, 10), jnp.float32)
    assert list(names["state"]) == ["batch_stats"]
    assert {name: map.shape for name, map in names["maps"].items()} == {
        "c2": (8, 14, 14, 32),
        "c3": (8, 7, 7, 64),
        "c4": (8, 4, 4, 128),
        "c5": (8, 4, 4, 256),
    }
    assert names["attention"]["c5/block_1"].shape == (8, 4, 4, 4, 4, 4)
    other = names["model"].apply(names["variables"], jnp.zeros((1, 56, 64, 3)))
    assert other.shape == (1, 3)

    exec(third, names)
    assert names["name"] in names["prediction"].ranking[0]
    assert 0.1 < names["probability"] <= 1
