"""The shapes of a model's variables are traced once where JAX keeps programs, and never wrong."""

import gzip
import json

import jax
import pytest

from bottleneck_transformer_flax.checkpoints import kept_shapes
from bottleneck_transformer_flax.checkpoints.kept_shapes import expected_variables
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from reference.small_models import SMALL_MODELS, grid_stride

CONFIG = SMALL_MODELS["botnet_t3"].config
SIZE = (2 * grid_stride("botnet_t3"), 3 * grid_stride("botnet_t3"))


@pytest.fixture
def folder(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_enable_compilation_cache", True)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def traced(monkeypatch):
    """The models that were traced."""
    models = []
    trace = kept_shapes.abstract_variables

    def spy(model, image_size):
        models.append(model)
        return trace(model, image_size)

    monkeypatch.setattr(kept_shapes, "abstract_variables", spy)
    return models


def expected(size=SIZE, **changes):
    return expected_variables(BoTNet(config=CONFIG.replace(**changes)), size)


def test_traced_once(folder, traced):
    first = expected()
    assert expected() == first
    assert len(traced) == len(list(folder.iterdir())) == 1
    assert first["params.head.kernel"].shape[1] == CONFIG.num_classes


@pytest.mark.parametrize(
    "other", [{"num_classes": 7}, {"size": (SIZE[1], SIZE[0])}, {"dtype": "bfloat16"}]
)
def test_what_differs_is_traced_by_itself(folder, traced, other):
    expected()
    assert expected(**other) == expected(**other)
    assert len(traced) == len(list(folder.iterdir())) == 2


def test_other_sources_or_versions_are_traced_anew(folder, traced, monkeypatch):
    expected()
    monkeypatch.setattr(jax, "__version__", "0.0")
    expected()
    assert len(traced) == 2
    package = folder / "package"
    (package / "models").mkdir(parents=True)
    (package / "models" / "botnet.py").write_text("other")
    monkeypatch.setattr(
        kept_shapes.bottleneck_transformer_flax, "__file__", str(package / "__init__.py")
    )
    expected()
    assert len(traced) == 3


@pytest.mark.parametrize("damage", ["empty", "cut off", "one bit", "other"])
def test_a_damaged_file_is_written_anew(folder, traced, damage):
    first = expected()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    content = {"empty": b"", "cut off": whole[:-9], "one bit": bytes(flipped), "other": b"other"}
    file.write_bytes(content[damage])
    assert expected() == first
    assert len(traced) == 2
    assert json.loads(gzip.decompress(file.read_bytes()))


@pytest.mark.parametrize("why", ["no folder named", "not there", "turned off", "remote"])
def test_without_a_folder_nothing_is_kept(folder, traced, why):
    named = {"no folder named": None, "not there": str(folder / "none"), "remote": "gs://bucket/x"}
    if why == "turned off":
        jax.config.update("jax_enable_compilation_cache", False)
    else:
        jax.config.update("jax_compilation_cache_dir", named[why])
    assert expected() == expected()
    assert len(traced) == 2
    assert not list(folder.iterdir())


def test_images_too_small_are_refused_and_nothing_kept(folder):
    with pytest.raises(ConfigError, match="1 × 1"):
        expected(size=(1, 1))
    assert not list(folder.iterdir())
