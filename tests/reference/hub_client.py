"""How huggingface_hub is pointed at the stand-in of the hub, here and in other processes.

huggingface_hub reads its environment when it is imported. In another process the environment is
enough; in this one what it has read is replaced.
"""

import os
import time
import warnings

import huggingface_hub
import pytest
from huggingface_hub import constants

from reference.hub_server import HubServer

# What would be another hub, cache or token than the tests'.
ELSEWHERE = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE")


def is_elsewhere(name):
    return name.startswith(ELSEWHERE) or name.upper().endswith("_PROXY")


def environment(server, home, token=None):
    """The environment of a process that uses this hub, with a folder for its cache."""
    kept = {name: value for name, value in os.environ.items() if not is_elsewhere(name)}
    ours = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return kept | ours | ({} if token is None else {"HF_TOKEN": token})


def point_library_at(server, monkeypatch, home):
    """The same for this process, with nobody logged in."""
    for name in filter(is_elsewhere, list(os.environ)):
        monkeypatch.delenv(name)
    for name, value in {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    # It waits up to 8 s between its attempts.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that this process uses, with an empty cache and nobody logged in."""
    server = HubServer()
    huggingface_hub.close_session()
    point_library_at(server, monkeypatch, tmp_path / "hub_home")
    with warnings.catch_warnings():
        # Its own way to send large files, when its storage library is not used.
        warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
        yield server
    huggingface_hub.close_session()
    server.stop()
