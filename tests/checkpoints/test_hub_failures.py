"""Every way the hub can fail, with a stand-in of it on this machine, is told in one clear line."""

import errno
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from bottleneck_transformer_flax.checkpoints.hub import (
    download_repository,
    is_repository,
    upload_pretrained,
)
from bottleneck_transformer_flax.checkpoints.locations import CARD, CLASSES, CONFIG, WEIGHTS
from checkpoints.hub_sharing import ANT, CONTENT, cache, fetch
from reference.hub_server import READER, WRITER


def test_a_part_in_the_cache_is_not_taken_for_the_whole(hub, refusal):
    hub.add(ANT, CONTENT)
    download_repository(ANT, [CONFIG])
    hub.hang_up = True
    assert "broke off" in refusal(fetch)
    hub.stop()
    assert "does not hold all of it" in refusal(fetch)


def test_a_download_that_is_cut_off_leaves_nothing_that_passes_for_whole(hub, refusal):
    hub.add(ANT, CONTENT)
    hub.cut_after = 5000
    message = refusal(fetch)
    assert message.startswith(f"{ANT} cannot be downloaded: the connection to the hub at ")
    assert message.endswith("; try again")
    assert "broke off" in message
    (stored,) = Path(cache()).glob("models--*")
    assert not [path for path in stored.rglob("*") if path.name == WEIGHTS]
    sizes = {path.stat().st_size for path in (stored / "blobs").iterdir()}
    assert sizes <= {len(CONTENT[CONFIG]), len(CONTENT[CARD])}
    hub.hang_up = True
    refusal(fetch)
    hub.hang_up, hub.cut_after = False, None
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


def test_a_connection_that_breaks_off_once_is_taken_up_again(hub, monkeypatch):
    hub.add(ANT, CONTENT)
    hub.cut_after = 5000
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(hub, "cut_after", None))
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]
    assert sum("GET" in request and request.endswith(WEIGHTS) for request in hub.asked) == 2


# What cannot be had.


@pytest.mark.parametrize("token", [None, READER])
def test_a_repository_that_is_not_there(hub, refusal, monkeypatch, token):
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert refusal(fetch) == (
        f"{ANT} cannot be downloaded: the hub has no such repository, or it is private; check the "
        "name, or log in with `hf auth login`"
    )


def test_a_private_repository_of_another(hub, refusal):
    hub.add(ANT, CONTENT, private=True)
    assert "or it is private" in refusal(fetch)


@pytest.mark.parametrize("token", [None, READER])
def test_a_gated_repository(hub, refusal, monkeypatch, token):
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.add(ANT, CONTENT, gated=True)
    assert refusal(fetch, f"{ANT}@main") == (
        f"{ANT}@main cannot be downloaded: its owner grants access on request; ask for it at "
        f"{hub.endpoint}/{ANT}, then log in with `hf auth login`"
    )


def test_a_revision_that_is_not_there(hub, refusal):
    hub.add(ANT, CONTENT)
    message = refusal(fetch, f"{ANT}@v9")
    assert message == f"{ANT}@v9 cannot be downloaded: it has no branch, tag or commit 'v9'"


def test_a_token_that_the_hub_does_not_know(hub, refusal, monkeypatch, small_directory):
    hub.add(ANT, CONTENT)
    monkeypatch.setenv("HF_TOKEN", "stolen")
    for message in (refusal(fetch), refusal(upload_pretrained, small_directory, ANT)):
        assert "does not accept the token (Invalid credentials" in message
        assert "log in anew with `hf auth login`" in message


@pytest.mark.parametrize("status", [500, 429])
def test_a_hub_in_trouble(hub, refusal, status):
    hub.status = status
    message = refusal(fetch)
    assert message.startswith(f"{ANT} cannot be downloaded: the hub answered with {status} (")
    assert message.endswith("; try again later")


@pytest.mark.usefixtures("logged_in")
def test_another_answer(hub, refusal, small_directory):
    hub.status = 418
    assert "the hub answered with 418 (I'm a Teapot)" in refusal(
        upload_pretrained, small_directory, ANT
    )


def test_a_page_that_is_not_the_hub(hub, refusal, small_directory, monkeypatch):
    hub.page = b"<html>Welcome to our hotel</html>"
    expected = f"what answers at {hub.endpoint} is not the hub; check the network and HF_ENDPOINT"
    assert refusal(fetch) == f"{ANT} cannot be downloaded: {expected}"
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert (
        refusal(upload_pretrained, small_directory, ANT) == f"{ANT} cannot be uploaded: {expected}"
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EDQUOT, "full"),
        RuntimeError("writing failed: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk(hub, refusal, monkeypatch, error):
    hub.add(ANT, CONTENT)
    with monkeypatch.context() as patch:
        fails_with(error, patch)
        message = refusal(fetch)
    assert f"no space left for the cache {cache()}; make room, or set HF_HOME" in message
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


def test_a_failure_that_is_not_foreseen(hub, refusal, monkeypatch):
    hub.add(ANT, CONTENT)
    fails_with(RuntimeError("storage:\n  " + "very " * 100), monkeypatch)
    message = refusal(fetch)
    assert message.startswith(f"{ANT} cannot be downloaded: storage: very very ")
    assert message.endswith("…; try again")
    assert len(message) < 300


def fails_with(error, monkeypatch):
    """Let the writing of what arrives fail."""

    def write(*_, **__):
        raise error

    monkeypatch.setattr(file_download, "http_get", write)


def test_a_cache_that_cannot_be_written(hub, refusal):
    hub.add(ANT, CONTENT)
    Path(cache()).parent.mkdir()
    Path(cache()).write_text("in the way")
    message = refusal(fetch)
    assert message.startswith(f"{ANT} cannot be downloaded: {cache()}/models--lab--ant-1.0")
    assert message.endswith(": Not a directory")


def test_a_repository_of_something_else(hub, refusal):
    hub.add(ANT, {"pytorch_model.bin": b"", CARD: b"# other"})
    hub.add("lab/empty", {})
    message = refusal(fetch)
    assert f"{ANT} is on the hub but lacks config.json, model.safetensors; expected" in message
    assert "lacks *.json, x;" in refusal(download_repository, ANT, ["*.json", "x"])
    assert "lacks config.json;" in refusal(download_repository, "lab/empty", [CONFIG])


# What cannot be shared.


def test_an_upload_when_nobody_is_logged_in(hub, refusal, small_directory):
    assert refusal(upload_pretrained, small_directory, ANT) == (
        f"{ANT} cannot be uploaded: nobody is logged in; log in with `hf auth login`, or set "
        "HF_TOKEN"
    )
    assert hub.asked == []


@pytest.mark.parametrize(("token", "name"), [(READER, ANT), (WRITER, "others/ant")])
@pytest.mark.parametrize("there", [True, False])
def test_an_upload_that_is_not_permitted(
    hub, refusal, small_directory, monkeypatch, token, name, there
):
    monkeypatch.setenv("HF_TOKEN", token)
    if there:
        hub.add(name, CONTENT)
    message = refusal(upload_pretrained, small_directory, name)
    assert message.startswith(f"{name} cannot be uploaded: the hub does not permit it (You don't")
    assert message.endswith("log in with `hf auth login` and a token that may write to it")
    assert not there or len(hub.repositories[name].commits) == 1


@pytest.mark.usefixtures("logged_in")
def test_an_upload_without_a_network(hub, refusal, small_directory, monkeypatch):
    hub.stop()
    message = refusal(upload_pretrained, small_directory, ANT)
    assert message.startswith(f"{ANT} cannot be uploaded: the hub at {hub.endpoint} cannot be rea")
    assert message.endswith("; check the network and try again")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(upload_pretrained, small_directory, ANT)
    assert message.endswith("HF_HUB_OFFLINE forbids the network; unset HF_HUB_OFFLINE")


@pytest.mark.usefixtures("logged_in")
def test_a_public_repository_does_not_get_what_is_private(hub, refusal, small_directory):
    hub.add(ANT, CONTENT)
    message = refusal(upload_pretrained, small_directory, ANT, private=True)
    assert message.startswith(f"{ANT} is on the hub already and public, nothing was uploaded")
    assert f"{hub.endpoint}/{ANT}/settings" in message
    assert len(hub.repositories[ANT].commits) == 1
    assert not [request for request in hub.asked if request.startswith("PUT")]


@pytest.mark.usefixtures("logged_in")
def test_a_card_that_the_hub_refuses(hub, refusal, small_directory):
    (small_directory / CARD).write_text("---\nlicense: bad\n---\n")
    message = refusal(upload_pretrained, small_directory, ANT)
    assert message.endswith('Invalid metadata in README.md. - "license" must be known')
    assert len(hub.repositories[ANT].commits) == 1


@pytest.mark.usefixtures("logged_in")
def test_a_directory_that_is_not_whole(hub, refusal, small_directory, tmp_path):
    (small_directory / CLASSES).unlink()
    assert f"{small_directory} lacks classes.json" in refusal(
        upload_pretrained, small_directory, ANT
    )
    assert "does not exist" in refusal(upload_pretrained, tmp_path / "nowhere", ANT)
    message = refusal(upload_pretrained, small_directory, f"{ANT}@v1")
    assert message.endswith(f"an upload goes to the main branch; name {ANT}")
    assert hub.asked == []


def test_without_the_library(refusal, small_directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for message in (refusal(fetch), refusal(upload_pretrained, small_directory, ANT)):
        assert "pip install 'bottleneck-transformer-flax[hub]'" in message
    assert is_repository(ANT)
