"""Importing a file: what comes with it, and every way in which it can be of another model."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from bottleneck_transformer_flax.checkpoints.pretrained import (
    Pretrained,
    load_pretrained,
    save_pretrained,
)
from bottleneck_transformer_flax.conversion.files import export_file, import_file
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.surgery import replace_head, resize_relative_positions
from bottleneck_transformer_flax.preprocessing import Preprocessing
from reference.foreign_arrays import foreign_arrays
from reference.timm_models import timm_model

NAME = "eca_botnext26ts_256"
FOLDER = Path(__file__).parents[1] / "goldens/foreign"


@pytest.fixture(scope="module")
def arrays():
    with np.load(FOLDER / f"{NAME}.npz") as golden:
        return foreign_arrays(json.loads(str(golden["shapes"])), float(golden["gain"]))


@pytest.fixture(scope="module")
def file(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("their") / "eca.safetensors"
    save_file(arrays, path)
    return path


@pytest.fixture(scope="module")
def imported(file):
    return import_file(file, NAME).pretrained


def test_what_comes_with_published_weights(imported):
    assert imported.preprocessing == Preprocessing(size=(256, 256), crop=0.95)
    assert imported.classes == imagenet.class_names()
    assert imported.classes[:2] == ("tench", "goldfish")


def test_a_pretrained_directory_of_it(imported, tmp_path):
    save_pretrained(tmp_path / "eca", *imported)
    loaded = load_pretrained(tmp_path / "eca")
    assert loaded.model.config == imported.model.config
    for ours, theirs in zip(_leaves(loaded), _leaves(imported), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _leaves(pretrained):
    return jax.tree.leaves(pretrained.variables)


def test_the_model_without_published_weights_has_timms_crop(tmp_path):
    with np.load(FOLDER / "botnet50ts_256.npz") as golden:
        save_file(
            foreign_arrays(json.loads(str(golden["shapes"])), 2.0), tmp_path / "a.safetensors"
        )
    imported = import_file(tmp_path / "a.safetensors", "botnet50ts_256").pretrained
    described = timm_model("botnet50ts_256").pretrained_cfg
    assert imported.preprocessing.crop == described["crop_pct"]
    assert imported.preprocessing.interpolation == described["interpolation"]


def test_another_head(arrays, tmp_path):
    head = {
        "head.fc.weight": np.ones((3, 2048), np.float32),
        "head.fc.bias": np.arange(3, dtype=np.float32),
    }
    path = tmp_path / "three.safetensors"
    save_file(arrays | head, path)
    pretrained = import_file(path, NAME).pretrained
    assert pretrained.model.config.num_classes == 3
    assert pretrained.classes == ("class 0", "class 1", "class 2")
    named = import_file(path, NAME, classes=("a", "b", "c")).pretrained
    assert named.classes == ("a", "b", "c")
    with pytest.raises(ConfigError, match="there are 2 class names for the 3 outputs"):
        import_file(path, NAME, classes=("a", "b"))


def test_another_size(imported, tmp_path):
    model, variables = resize_relative_positions(imported.model, imported.variables, (320, 224))
    resized = Pretrained(
        model, variables, imported.preprocessing.replace(size=(320, 224)), imported.classes
    )
    path = tmp_path / "resized.safetensors"
    export_file(resized, path, "timm")
    back = import_file(path, NAME, image_size=(320, 224)).pretrained
    assert back.preprocessing.size == (320, 224)
    for ours, theirs in zip(_leaves(back), _leaves(resized), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(CheckpointError, match=r"height_rel is \(39, 16\), expected \(31, 16\)"):
        import_file(path, NAME)


def test_every_difference_is_listed_once(arrays, tmp_path):
    damaged = dict(arrays)
    del damaged["stem.conv1.conv.weight"]
    damaged["extra.weight"] = np.zeros(1, np.float32)
    damaged["head.fc.weight"] = np.zeros((1000, 7), np.float32)
    path = tmp_path / "damaged.safetensors"
    save_file(damaged, path)
    with pytest.raises(CheckpointError) as caught:
        import_file(path, NAME)
    message = str(caught.value)
    assert f"is no {NAME} of timm" in message
    assert "3 differences" in message
    for part in (
        "missing: stem.conv1.conv.weight",
        "not in the model: extra.weight",
        "head.fc.weight is (1000, 7), expected (1000, 2048)",
    ):
        assert message.count(part) == 1
    assert "\n" not in message


def test_another_model_of_the_same_project_is_named(file):
    with pytest.raises(CheckpointError, match=f"but has the names of {NAME} of timm"):
        import_file(file, "botnet26t_256")


def test_values_that_are_not_finite(arrays, tmp_path):
    damaged = arrays | {"head.fc.bias": np.full(1000, np.nan, np.float32)}
    save_file(damaged, tmp_path / "damaged.safetensors")
    with pytest.raises(CheckpointError, match=r"1 difference: head\.fc\.bias has values"):
        import_file(tmp_path / "damaged.safetensors", NAME)


@pytest.mark.parametrize("size", [(320, 192), (192, 256), (64, 512)])
def test_the_size_that_it_was_trained_at_is_named(imported, tmp_path, size):
    _, variables = resize_relative_positions(imported.model, imported.variables, size)
    resized = imported._replace(
        variables=variables, preprocessing=imported.preprocessing.replace(size=size)
    )
    path = tmp_path / "resized.safetensors"
    export_file(resized, path, "timm")
    with pytest.raises(CheckpointError, match=f"--image-size {size[0]} {size[1]}\\)") as caught:
        import_file(path, NAME)
    assert "is no " not in str(caught.value)
    back = import_file(path, NAME, image_size=size).pretrained
    for ours, theirs in zip(_leaves(back), _leaves(resized), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_architecture(tmp_path):
    path = tmp_path / "resnet.safetensors"
    save_file({"layer1.0.conv1.weight": np.zeros((4, 4, 1, 1), np.float32)}, path)
    with pytest.raises(CheckpointError, match=r"not in the model: layer1\.0\.conv1\.weight"):
        import_file(path, "botnet_s1_50")


@pytest.mark.parametrize("name", ["botnet_t3", "botnet_tiny"])
def test_a_variant_that_no_project_has(file, name):
    with pytest.raises(ConfigError, match=f"no other project's {name} is known"):
        import_file(file, name)
    with pytest.raises(ConfigError, match="did you mean 'botnet26t_256'"):
        import_file(file, "botnet26t_265")


def test_what_another_project_has_not(imported, tmp_path):
    with pytest.raises(
        CheckpointError, match="is botnet_tiny, which timm does not have; it has botnet26"
    ):
        export_file(load_pretrained("botnet_tiny"), tmp_path / "a.safetensors", "timm")
    changed = BoTNet(config=imported.model.config.replace(activation="relu"))
    with pytest.raises(CheckpointError, match="is none of the variants, which timm"):
        export_file(imported._replace(model=changed), tmp_path / "a.safetensors", "timm")
    with pytest.raises(CheckpointError, match=f"is {NAME}, which distribuuuu does not have"):
        export_file(imported, tmp_path / "a.safetensors", "distribuuuu")
    assert not any(tmp_path.iterdir())


def test_a_fine_tuned_model_goes_back(imported, tmp_path):
    model, variables = replace_head(
        imported.model, imported.variables, num_classes=4, rng=jax.random.key(0)
    )
    tuned = Pretrained(model, variables, imported.preprocessing, ("a", "b", "c", "d"))
    assert export_file(tuned, tmp_path / "tuned.safetensors", "timm") == NAME
    back = import_file(tmp_path / "tuned.safetensors", NAME).pretrained
    for ours, theirs in zip(_leaves(back), _leaves(tuned), strict=True):
        np.testing.assert_array_equal(ours, theirs)
