"""distribuuuu's model, converted, computes what their own code computed, and goes back exactly.

``reference/distribuuuu.py`` recorded what their code computes.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bottleneck_transformer_flax.conversion.convert import export_checkpoint
from bottleneck_transformer_flax.conversion.distribuuuu import mapping
from bottleneck_transformer_flax.conversion.importing import import_checkpoint
from conversion.peers import gradients, logits_and_features, relative
from reference import distribuuuu as recorded
from training.tiny import assert_same_bits


@pytest.fixture(scope="module")
def golden():
    with np.load(recorded.GOLDEN) as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture(scope="module")
def file(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("distribuuuu") / "botnet50.safetensors"
    save_file(recorded.parameters(json.loads(str(golden["shapes"]))), path)
    return path


@pytest.fixture(scope="module")
def imported(file):
    return import_checkpoint(file, variant="botnet_s1_50", image_size=recorded.SIZE).pretrained


@pytest.mark.slow
def test_logits_and_features_are_distribuuuus(imported, golden):
    expected = golden["logits"]
    logits, features = logits_and_features(imported.model, imported.variables, recorded.images())
    assert expected.shape == (2, 1000)
    assert 0.1 < expected.std() < 100
    # The two images differ far more than what is allowed.
    assert np.abs(np.diff(expected, axis=0)).max() > 0.01
    difference = np.abs(logits - expected).max()
    by_stage = [
        relative(recorded.sampled(ours), theirs)
        for ours, theirs in zip(features, golden["features"], strict=True)
    ]
    print(f"distribuuuu's botnet50: logits {difference:.1e}, features {max(by_stage):.1e}")
    assert difference < 1e-4
    assert max(by_stage) < 1e-4


def test_gradients_of_the_input_and_every_parameter_are_distribuuuus(imported, golden):
    model, variables = imported.model, imported.variables
    all_arrays = list(mapping(model.config))
    of_images, by_name = gradients(model, variables, recorded.images(), recorded.LABELS, all_arrays)
    assert relative(recorded.sampled(of_images), golden["input_gradient"]) < 1e-3
    sampled, expected = recorded.sampled_gradients(by_name), golden["gradients"]
    assert sampled.shape == expected.shape
    assert (np.abs(sampled - expected).max(1) / np.abs(expected).max(1)).max() < 1e-3


def test_the_way_back_is_exact(imported, file, tmp_path):
    back = tmp_path / "back.safetensors"
    assert export_checkpoint(imported, back, "distribuuuu") == "botnet_s1_50"
    assert_same_bits(load_file(back), load_file(file))
