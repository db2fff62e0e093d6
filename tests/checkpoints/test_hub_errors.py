"""Whatever goes wrong with the hub is told in one line: the repository, the cause, the remedy."""

import errno
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub import constants, file_download

from bottleneck_transformer_flax.checkpoints.hub import download_repository, upload_pretrained
from bottleneck_transformer_flax.checkpoints.pretrained_files import CARD, CLASSES, CONFIG, WEIGHTS
from checkpoints.shared import ANT, CONTENT, fetch
from reference.hub_server import READER, WRITER

DOWNLOAD, UPLOAD = f"{ANT} cannot be downloaded: ", f"{ANT} cannot be uploaded: "
FULL = "there is no space left for the cache"


def cache():
    return constants.HF_HUB_CACHE


@pytest.mark.usefixtures("ant")
def test_a_part_in_the_cache_does_not_pass_for_the_whole(hub, refusal):
    download_repository(ANT, [CONFIG])
    hub.hang_up = True
    assert f"the hub at {hub.endpoint} cannot be reached" in refusal(fetch)
    hub.stop()
    assert f"and the cache {cache()} does not hold all of it; check the" in refusal(fetch)


@pytest.mark.usefixtures("ant")
def test_a_download_that_is_cut_off_leaves_nothing_that_passes_for_whole(hub, refusal):
    hub.cut_after = 5000
    message = refusal(fetch)
    assert message.startswith(f"{DOWNLOAD}the hub at {hub.endpoint} cannot be reached")
    assert message.endswith("; check the network and try again")
    (stored,) = Path(cache()).glob("models--*")
    assert not list(stored.rglob(WEIGHTS))
    sizes = {path.stat().st_size for path in (stored / "blobs").iterdir()}
    assert sizes <= {len(CONTENT[CONFIG]), len(CONTENT[CARD])}
    hub.cut_after = None
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


@pytest.mark.usefixtures("ant")
def test_a_connection_that_breaks_off_once_is_taken_up_again(hub, monkeypatch):
    hub.cut_after = 5000
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(hub, "cut_after", None))
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]
    assert sum("GET" in request and request.endswith(WEIGHTS) for request in hub.asked) == 2


@pytest.mark.parametrize("token", [None, READER])
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


@pytest.mark.usefixtures("ant")
def test_a_revision_that_is_not_there(hub, refusal):
    assert refusal(fetch, f"{ANT}@v9") == (
        f"{ANT}@v9 cannot be downloaded: it has no branch, tag or commit 'v9'; choose one from "
        f"{hub.endpoint}/{ANT}/tree/main"
    )


@pytest.mark.usefixtures("ant")
def test_a_token_that_the_hub_does_not_know(refusal, monkeypatch, saved):
    monkeypatch.setenv("HF_TOKEN", "stolen")
    for message in (refusal(fetch), refusal(upload_pretrained, saved, ANT)):
        assert "does not accept the token (Invalid credentials" in message
        assert "log in again with `hf auth login`" in message


@pytest.mark.parametrize("status", [500, 429, 418])
def test_other_answers_of_the_hub(hub, refusal, status):
    hub.status = status
    message = refusal(fetch)
    assert message.startswith(f"{DOWNLOAD}the hub answered with {status} (")
    assert message.endswith("; try again later") == (status != 418)


@pytest.mark.usefixtures("logged_in")
def test_a_page_that_is_not_the_hub(hub, refusal, saved):
    hub.page = b"<html>Welcome to our hotel</html>"
    reason = f"{hub.endpoint} does not answer as the hub; check the network and HF_ENDPOINT"
    assert refusal(fetch) == DOWNLOAD + reason
    assert refusal(upload_pretrained, saved, ANT) == UPLOAD + reason


@pytest.mark.usefixtures("ant")
@pytest.mark.parametrize(
    ("error", "told", "remedy"),
    [
        (OSError(errno.ENOSPC, "full"), FULL, "set HF_HOME to a folder on another disk"),
        (OSError(errno.EDQUOT, "full"), FULL, ""),
        (RuntimeError("writing failed: No space left on device (os error 28)"), FULL, ""),
        (RuntimeError("storage:\n  " + "very " * 100), "storage: very very ", "…; try again"),
    ],
)
def test_a_disk_that_is_full_or_fails(refusal, monkeypatch, error, told, remedy):
    with monkeypatch.context() as patch:
        patch.setattr(file_download, "http_get", Mock(side_effect=error))
        message = refusal(fetch)
    assert message.startswith(DOWNLOAD + told)
    assert message.endswith(remedy)
    assert len(message) < 300
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


@pytest.mark.usefixtures("ant")
def test_a_cache_that_cannot_be_written(refusal):
    Path(cache()).parent.mkdir()
    Path(cache()).write_text("in the way")
    message = refusal(fetch)
    assert message.startswith(f"{DOWNLOAD}{cache()}/models--lab--ant-1.0")
    assert ": Not a directory" in message


def test_a_repository_of_something_else(hub, refusal):
    hub.add(ANT, {"pytorch_model.bin": b"", CARD: b"# other"})
    hub.add("lab/empty", {})
    message = refusal(fetch)
    assert f"{ANT} is on the hub but lacks config.json, model.safetensors; expected" in message
    assert "lacks y, x;" in refusal(download_repository, ANT, ["y", "x"])
    assert "lacks config.json;" in refusal(download_repository, "lab/empty", [CONFIG])


@pytest.mark.parametrize(
    ("token", "name", "there"),
    [(READER, ANT, True), (READER, ANT, False), (WRITER, "others/ant", True)],
)
def test_an_upload_that_is_not_permitted(hub, refusal, saved, monkeypatch, token, name, there):
    monkeypatch.setenv("HF_TOKEN", token)
    if there:
        hub.add(name, CONTENT)
    message = refusal(upload_pretrained, saved, name)
    assert message.startswith(f"{name} cannot be uploaded: the hub does not permit it (You don't")
    assert message.endswith("log in with `hf auth login` and a token that may write to it")
    assert not there or len(hub.repositories[name].commits) == 1


def test_nobody_logged_in_or_no_network(hub, refusal, saved, monkeypatch):
    assert refusal(upload_pretrained, saved, ANT) == (
        f"{UPLOAD}nobody is logged in; log in with `hf auth login`, or set HF_TOKEN"
    )
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", WRITER)
    hub.stop()
    message = refusal(upload_pretrained, saved, ANT)
    assert message.startswith(f"{UPLOAD}the hub at {hub.endpoint} cannot be reached")
    assert message.endswith("; check the network and try again")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(upload_pretrained, saved, ANT)
    assert message.endswith("HF_HUB_OFFLINE forbids the network; unset HF_HUB_OFFLINE")
    assert "HF_HUB_OFFLINE forbids the network, and the cache" in refusal(fetch)


@pytest.mark.usefixtures("logged_in")
def test_a_public_repository_does_not_get_what_is_private(hub, refusal, saved, ant):
    message = refusal(upload_pretrained, saved, ANT, private=True)
    assert message.startswith(f"{ANT} is on the hub already and public, nothing was uploaded")
    assert f"{hub.endpoint}/{ANT}/settings" in message
    assert len(ant.commits) == 1
    assert not [request for request in hub.asked if request.startswith("PUT")]


@pytest.mark.usefixtures("logged_in")
def test_a_card_that_the_hub_refuses(refusal, saved, caplog):
    (saved / CARD).write_text("---\nlicense: bad\n---\n")
    message = refusal(upload_pretrained, saved, ANT)
    assert message.endswith('Invalid metadata in README.md. - "license" must be known')
    assert caplog.messages == [f"{ANT} has been created on the hub, but is still empty"]
    refusal(upload_pretrained, saved, ANT)
    assert len(caplog.messages) == 1


@pytest.mark.usefixtures("logged_in")
def test_an_incomplete_directory_or_a_revision_is_not_uploaded(hub, refusal, saved, tmp_path):
    (saved / CLASSES).unlink()
    assert f"{saved} lacks classes.json" in refusal(upload_pretrained, saved, ANT)
    assert "does not exist" in refusal(upload_pretrained, tmp_path / "nowhere", ANT)
    message = refusal(upload_pretrained, saved, f"{ANT}@v1")
    assert message.endswith(f"an upload goes to the main branch; name {ANT}")
    assert hub.asked == []


def test_without_the_library(refusal, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for message in (refusal(fetch), refusal(upload_pretrained, saved, ANT)):
        assert "pip install 'bottleneck-transformer-flax[hub]'" in message
