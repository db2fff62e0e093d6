"""Fixtures of this folder: a small pretrained directory, and the stand-in for the hub."""

import shutil

import pytest

from bottleneck_transformer_flax import save_pretrained
from bottleneck_transformer_flax.errors import BoTNetError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from checkpoints.shared import ANT, CONTENT, NAMES, PREPROCESSING
from reference.hub import hub
from reference.variables import random_variables
from training.tiny import SIZE, SMALL

__all__ = ["hub"]


@pytest.fixture(scope="session")
def small_variables():
    return random_variables(abstract_variables(BoTNet(config=SMALL), SIZE))


@pytest.fixture(scope="session")
def saved_once(tmp_path_factory, small_variables):
    folder = tmp_path_factory.mktemp("once") / "saved"
    model = BoTNet(config=SMALL)
    return save_pretrained(folder, model, small_variables, PREPROCESSING, NAMES, card="# čard\n")


@pytest.fixture
def saved(tmp_path, saved_once):
    """A pretrained directory of a small model."""
    return shutil.copytree(saved_once, tmp_path / "saved")


@pytest.fixture
def ant(hub):
    """A repository on the hub."""
    return hub.add(ANT, CONTENT)


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "some-token")


@pytest.fixture
def refusal(capfd):
    """Call, expect one of our errors, and give its one line."""

    def call(function, *arguments, **options):
        with pytest.raises(BoTNetError) as caught:
            function(*arguments, **options)
        message = str(caught.value)
        assert "\n" not in message
        assert capfd.readouterr() == ("", "")
        return message

    return call
