"""A small model in the place of one of timm's, and its checkpoint: all but timm itself takes it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from bottleneck_transformer_flax.conversion.mapping import to_torch
from bottleneck_transformer_flax.conversion.timm import mapping
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.variants import VARIANTS
from reference.small_models import SMALL_MODELS
from reference.timm_networks import timm, timm_model
from reference.variables import random_variables

NAME = "eca_botnext26ts_256"
REPOSITORY = f"timm/{NAME}.c1_in1k"
CONFIG = SMALL_MODELS[NAME].config.replace(num_classes=1000)


@functools.cache
def _arrays():
    shapes = abstract_variables(BoTNet(config=CONFIG), (256, 256))
    variables = jax.device_get(random_variables(shapes))
    return to_torch(list(mapping(CONFIG)), flatten_dict(variables, sep="."))


@pytest.fixture
def arrays(monkeypatch):
    """The small model's checkpoint, which is taken for timm's while a test runs."""
    monkeypatch.setitem(VARIANTS, NAME, dataclasses.replace(VARIANTS[NAME], config=CONFIG))
    return dict(_arrays())


@pytest.fixture
def file(arrays, tmp_path):
    """The checkpoint as a file."""
    save_file(arrays, tmp_path / "eca.safetensors")
    return tmp_path / "eca.safetensors"


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """config.json as timm writes it."""
    path = tmp_path_factory.mktemp("timm") / "config.json"
    timm.models._hub.save_config_for_hf(timm_model(NAME), path)
    return path.read_bytes()


def head_of(classes):
    """The arrays of a classifier for so many classes."""
    channels = _arrays()["head.fc.weight"].shape[1]
    weight = np.random.default_rng(0).normal(size=(classes, channels)).astype(np.float32)
    return {"head.fc.weight": weight, "head.fc.bias": np.arange(classes, dtype=np.float32)}
