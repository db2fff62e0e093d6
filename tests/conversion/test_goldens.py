"""Converted models compute what other projects' own code computed, with none of it installed.

``reference/conversion_goldens.py`` wrote the files.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bottleneck_transformer_flax.conversion.convert import PROJECTS, export_checkpoint
from bottleneck_transformer_flax.conversion.importing import import_checkpoint
from reference.conversion_arrays import SAMPLES, golden_arrays, golden_images, sampled
from training.tiny import assert_same_bits

FOLDER = Path(__file__).parents[1] / "goldens/conversion"
GOLDENS = {name: name for name in PROJECTS["timm"].variants} | {
    "distribuuuu_botnet50": "botnet_s1_50"
}
# ``test_timm.py`` computes timm's live.
QUICK = ("distribuuuu_botnet50",)
COMPUTED = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in GOLDENS
]


@functools.cache
def golden(name):
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture(scope="module", params=COMPUTED)
def imported(request, tmp_path_factory):
    """A golden's name, its file, and the model that the file becomes."""
    name, path = request.param, tmp_path_factory.mktemp("golden") / "model.safetensors"
    shapes, gain = json.loads(str(golden(name)["shapes"])), float(golden(name)["gain"])
    save_file(golden_arrays(shapes, gain), path)
    return name, path, import_checkpoint(path, variant=GOLDENS[name]).pretrained


def test_logits_and_features_are_the_projects_own(imported):
    name, _, (model, variables, preprocessing, _) = imported
    images = jnp.asarray(golden_images(preprocessing.size[0]))

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


def test_a_file_converted_and_exported_has_the_same_arrays(imported, tmp_path):
    name, there, pretrained = imported
    back = tmp_path / "back.safetensors"
    project = "distribuuuu" if name.startswith("distribuuuu") else "timm"
    assert export_checkpoint(pretrained, back, project) == GOLDENS[name]
    assert_same_bits(load_file(back), load_file(there))
