"""What the tests of the hub share: a model to upload, files to fetch, and how refusals read."""

import pytest
from huggingface_hub import constants

from bottleneck_transformer_flax import save_pretrained
from bottleneck_transformer_flax.checkpoints.hub import download_repository
from bottleneck_transformer_flax.checkpoints.locations import (
    CARD,
    CLASSES,
    CONFIG,
    PREPROCESSING,
    WEIGHTS,
)
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from reference.hub_server import WRITER
from reference.variables import random_variables
from training.tiny import CROPPED, SIZE, SMALL

FILES = (CONFIG, WEIGHTS, PREPROCESSING, CLASSES, CARD)
NAMES = ("fourmi", "蜂", "čat")
ANT = "lab/ant-1.0"
CONTENT = {CONFIG: b"{}", WEIGHTS: bytes(range(256)) * 40, CARD: b"# ant", "other.bin": b"other"}


@pytest.fixture(scope="session")
def small_variables():
    return random_variables(abstract_variables(BoTNet(config=SMALL), SIZE))


@pytest.fixture
def small_directory(tmp_path, small_variables):
    model = BoTNet(config=SMALL)
    return save_pretrained(
        tmp_path / "saved", model, small_variables, CROPPED, NAMES, card="# čard\n"
    )


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)


@pytest.fixture
def refusal(capfd):
    """Call, expect a failure, and give the one line that says why."""

    def call(function, *arguments, **options):
        with pytest.raises(CheckpointError) as caught:
            function(*arguments, **options)
        message = str(caught.value)
        assert "\n" not in message
        assert capfd.readouterr() == ("", "")
        return message

    return call


def fetch(repository=ANT, files=FILES, required=(CONFIG, WEIGHTS)):
    return download_repository(repository, files, required=required)


def cache():
    return constants.HF_HUB_CACHE
