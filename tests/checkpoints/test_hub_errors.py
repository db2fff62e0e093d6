"""Whatever goes wrong with the hub is told in one line: the repository, the cause, the remedy."""

import errno
import sys

import pytest
from huggingface_hub import constants

from bottleneck_transformer_flax.checkpoints.hub import download_repository, upload_pretrained
from bottleneck_transformer_flax.checkpoints.hub_errors import explain
from bottleneck_transformer_flax.checkpoints.pretrained_files import CARD, CLASSES, CONFIG
from checkpoints.shared import ANT, CONTENT, fetch
from reference.hub import NO_NETWORK, TOKEN

DOWNLOAD, UPLOAD = f"{ANT} cannot be downloaded: ", f"{ANT} cannot be uploaded: "
FULL = "there is no space left for the cache"


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_repository_that_is_not_there_or_not_open(hub, refusal, monkeypatch, token):
    not_there = (
        f"{DOWNLOAD}the hub has no such repository, or it is private; check the name, or log in "
        "with `hf auth login`"
    )
    if token is None:
        hub.add(ANT, CONTENT, private=True)
        assert refusal(fetch) == not_there
        del hub.repositories[ANT]
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    assert refusal(fetch) == not_there
    hub.add(ANT, CONTENT, gated=True)
    assert refusal(fetch, f"{ANT}@main") == (
        f"{ANT}@main cannot be downloaded: its owner grants access on request; request it at "
        f"{hub.endpoint}/{ANT}, then log in with `hf auth login`"
    )
    assert refusal(fetch, f"{ANT}@v9") == (
        f"{ANT}@v9 cannot be downloaded: it has no branch, tag or commit 'v9'; choose one from "
        f"{hub.endpoint}/{ANT}/tree/main"
    )


@pytest.mark.usefixtures("ant")
def test_a_token_that_the_hub_does_not_know(refusal, monkeypatch, saved):
    monkeypatch.setenv("HF_TOKEN", "stolen")
    for told in (refusal(fetch), refusal(upload_pretrained, saved, ANT)):
        assert "does not accept the token (Invalid credentials" in told
        assert "log in again with `hf auth login`" in told


@pytest.mark.usefixtures("logged_in")
def test_other_answers_of_the_hub(hub, refusal, saved):
    for status in (500, 429, 418):
        hub.failure = (status, b"")
        told = refusal(fetch)
        assert told.startswith(f"{DOWNLOAD}the hub answered with {status} (")
        assert told.endswith("; try again later") == (status != 418)
    hub.failure = (200, b"<html>Welcome to our hotel</html>")
    reason = f"{hub.endpoint} does not answer as the hub; check the network and HF_ENDPOINT"
    assert refusal(fetch) == DOWNLOAD + reason
    assert refusal(upload_pretrained, saved, ANT) == UPLOAD + reason


@pytest.mark.parametrize(
    ("error", "told", "remedy"),
    [
        (OSError(errno.ENOSPC, "full"), FULL, "set HF_HOME to a folder on another disk"),
        (OSError(errno.EDQUOT, "full"), FULL, ""),
        (RuntimeError("writing failed: No space left on device (os error 28)"), FULL, ""),
        (
            OSError(errno.ENOTDIR, "Not a directory", "/cache"),
            "/cache: Not a directory",
            "try again",
        ),
        (RuntimeError("storage:\n  " + "very " * 100), "storage: very very ", "…; try again"),
    ],
)
def test_a_cache_that_cannot_be_written(error, told, remedy):
    explained = explain(error, ANT, uploading=False)
    assert explained.startswith(told)
    assert explained.endswith(remedy)
    assert len(explained) < 300


def test_a_repository_of_something_else(hub, refusal):
    hub.add(ANT, {"pytorch_model.bin": b"", CARD: b"# other"})
    hub.add("lab/empty", {})
    told = refusal(fetch)
    assert f"{ANT} is on the hub but lacks config.json, model.safetensors; expected" in told
    assert "lacks y, x;" in refusal(download_repository, ANT, ["y", "x"])
    assert "lacks config.json;" in refusal(download_repository, "lab/empty", [CONFIG])


@pytest.mark.usefixtures("logged_in")
def test_an_upload_that_is_not_permitted(hub, refusal, saved):
    there = hub.add("others/ant", CONTENT)
    for name in ("others/ant", "others/bee"):
        told = refusal(upload_pretrained, saved, name)
        assert told.startswith(f"{name} cannot be uploaded: the hub does not permit it (You don't")
        assert told.endswith("log in with `hf auth login` and a token that may write to it")
    assert (len(there.commits), len(hub.repositories)) == (1, 1)


def test_nobody_logged_in_or_no_network(hub, refusal, saved, monkeypatch):
    assert refusal(upload_pretrained, saved, ANT) == (
        f"{UPLOAD}nobody is logged in; log in with `hf auth login`, or set HF_TOKEN"
    )
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.failure = NO_NETWORK
    assert refusal(upload_pretrained, saved, ANT) == (
        f"{UPLOAD}the hub at {hub.endpoint} cannot be reached (connection refused); check the "
        "network and try again"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = refusal(upload_pretrained, saved, ANT)
    assert told.endswith("HF_HUB_OFFLINE forbids the network; unset HF_HUB_OFFLINE")
    assert "HF_HUB_OFFLINE forbids the network, and the cache" in refusal(fetch)


@pytest.mark.usefixtures("logged_in")
def test_a_card_that_the_hub_refuses(refusal, saved, caplog):
    (saved / CARD).write_text("---\nlicense: bad\n---\n")
    told = refusal(upload_pretrained, saved, ANT)
    assert told.endswith('Invalid metadata in README.md. - "license" must be known')
    assert caplog.messages == [f"{ANT} has been created on the hub, but is still empty"]
    refusal(upload_pretrained, saved, ANT)
    assert len(caplog.messages) == 1


@pytest.mark.usefixtures("logged_in")
def test_an_incomplete_directory_or_a_revision_is_not_uploaded(hub, refusal, saved, tmp_path):
    (saved / CLASSES).unlink()
    assert f"{saved} lacks classes.json" in refusal(upload_pretrained, saved, ANT)
    assert "does not exist" in refusal(upload_pretrained, tmp_path / "nowhere", ANT)
    told = refusal(upload_pretrained, saved, f"{ANT}@v1")
    assert told.endswith(f"an upload goes to the main branch; name {ANT}")
    assert hub.asked == []


def test_without_the_library(refusal, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for told in (refusal(fetch), refusal(upload_pretrained, saved, ANT)):
        assert "pip install 'bottleneck-transformer-flax[hub]'" in told
