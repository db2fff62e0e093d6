"""Imported models compute what other projects' own code computed, without any of it here.

``reference/foreign_goldens.py`` made the files.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from bottleneck_transformer_flax.conversion.files import PROJECTS, export_file, import_file
from reference.foreign_arrays import SAMPLES, foreign_arrays, foreign_images, sampled

FOLDER = Path(__file__).parents[1] / "goldens/foreign"
GOLDENS = {name: name for name in PROJECTS["timm"].variants} | {
    "distribuuuu_botnet50": "botnet_s1_50"
}
# Every kind of block is in these two; the others are among the slow tests.
QUICK = ("eca_botnext26ts_256", "distribuuuu_botnet50")
COMPUTED = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in GOLDENS
]


@functools.cache
def golden(name):
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@functools.cache
def their_arrays(name):
    return foreign_arrays(json.loads(str(golden(name)["shapes"])), float(golden(name)["gain"]))


@pytest.fixture
def imported(request, tmp_path):
    name = request.param
    save_file(their_arrays(name), tmp_path / "model.safetensors")
    return name, import_file(tmp_path / "model.safetensors", GOLDENS[name])


@pytest.mark.parametrize("imported", COMPUTED, indirect=True)
def test_logits_and_features_are_the_projects_own(imported):
    name, (pretrained, project) = imported
    assert project == ("distribuuuu" if name.startswith("distribuuuu") else "timm")
    model, variables, preprocessing, _ = pretrained
    images = jnp.asarray(foreign_images(preprocessing.size[0]))

    def everything(variables, images):
        logits = model.apply(variables, images)
        return logits, model.apply(variables, images, method="feature_maps")

    logits, features = jax.device_get(jax.jit(everything)(variables, images))
    expected = golden(name)
    assert expected["logits"].shape == (2, 1000)
    assert 0.1 < expected["logits"].std() < 100
    # The two images differ far more than what is allowed.
    assert np.abs(np.diff(expected["logits"], axis=0)).max() > 0.01
    difference = float(np.abs(logits - expected["logits"]).max())
    by_stage = []
    for ours, theirs in zip(features.values(), expected["features"], strict=True):
        assert theirs.shape == (SAMPLES,)
        by_stage.append(float(np.abs(sampled(ours) - theirs).max() / np.abs(theirs).max()))
    print(f"{name}: logits {difference:.1e}, features", *(f"{value:.1e}" for value in by_stage))
    assert difference < 1e-4
    assert max(by_stage) < 1e-4


@pytest.mark.parametrize("imported", GOLDENS, indirect=True)
def test_there_and_back_is_the_same_file(imported, tmp_path):
    name, (pretrained, project) = imported
    assert export_file(pretrained, tmp_path / "back.safetensors", project) == GOLDENS[name]
    there, back = tmp_path / "model.safetensors", tmp_path / "back.safetensors"
    assert _arrays_of(there) == _arrays_of(back)


def _arrays_of(path):
    """Every array of a safetensors file: its kind, shape and bytes."""
    file = path.read_bytes()
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], file[8 + size :][slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }
