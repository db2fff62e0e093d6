"""Whatever goes wrong with the hub is told in one line: the repository, the cause, the remedy."""

import errno
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from bottleneck_transformer_flax.checkpoints.hub import download_repository, upload_pretrained
from bottleneck_transformer_flax.checkpoints.pretrained_files import CARD, CLASSES, CONFIG, WEIGHTS
from checkpoints.shared import ANT, CONTENT, fetch
from reference.hub_server import READER, WRITER

NOT_THERE = (
    f"{ANT} cannot be downloaded: the hub has no such repository, or it is private; check the "
    "name, or log in with `hf auth login`"
)


def cache():
    return constants.HF_HUB_CACHE


def test_a_part_in_the_cache_does_not_pass_for_the_whole(hub, refusal):
    hub.add(ANT, CONTENT)
    download_repository(ANT, [CONFIG])
    hub.hang_up = True
    assert f"the hub at {hub.endpoint} cannot be reached" in refusal(fetch)
    hub.stop()
    assert f"and the cache {cache()} does not hold all of it; check the" in refusal(fetch)


def test_a_download_that_is_cut_off_leaves_nothing_that_passes_for_whole(hub, refusal):
    hub.add(ANT, CONTENT)
    hub.cut_after = 5000
    message = refusal(fetch)
    assert message.startswith(f"{ANT} cannot be downloaded: the hub at {hub.endpoint} cannot be re")
    assert message.endswith("; check the network and try again")
    (stored,) = Path(cache()).glob("models--*")
    assert not [path for path in stored.rglob("*") if path.name == WEIGHTS]
    sizes = {path.stat().st_size for path in (stored / "blobs").iterdir()}
    assert sizes <= {len(CONTENT[CONFIG]), len(CONTENT[CARD])}
    hub.cut_after = None
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


def test_a_connection_that_breaks_off_once_is_taken_up_again(hub, monkeypatch):
    hub.add(ANT, CONTENT)
    hub.cut_after = 5000
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(hub, "cut_after", None))
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]
    assert sum("GET" in request and request.endswith(WEIGHTS) for request in hub.asked) == 2


@pytest.mark.parametrize("token", [None, READER])
def test_a_repository_that_is_not_there_or_not_open(hub, refusal, monkeypatch, token):
    if token is None:
        hub.add(ANT, CONTENT, private=True)
        assert refusal(fetch) == NOT_THERE
        del hub.repositories[ANT]
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    assert refusal(fetch) == NOT_THERE
    hub.add(ANT, CONTENT, gated=True)
    assert refusal(fetch, f"{ANT}@main") == (
        f"{ANT}@main cannot be downloaded: its owner grants access on request; request it at "
        f"{hub.endpoint}/{ANT}, then log in with `hf auth login`"
    )


def test_a_revision_that_is_not_there(hub, refusal):
    hub.add(ANT, CONTENT)
    assert refusal(fetch, f"{ANT}@v9") == (
        f"{ANT}@v9 cannot be downloaded: it has no branch, tag or commit 'v9'; choose one from "
        f"{hub.endpoint}/{ANT}/tree/main"
    )


def test_a_token_that_the_hub_does_not_know(hub, refusal, monkeypatch, saved):
    hub.add(ANT, CONTENT)
    monkeypatch.setenv("HF_TOKEN", "stolen")
    for message in (refusal(fetch), refusal(upload_pretrained, saved, ANT)):
        assert "does not accept the token (Invalid credentials" in message
        assert "log in again with `hf auth login`" in message


@pytest.mark.parametrize("status", [500, 429, 418])
def test_other_answers_of_the_hub(hub, refusal, status):
    hub.status = status
    message = refusal(fetch)
    assert message.startswith(f"{ANT} cannot be downloaded: the hub answered with {status} (")
    assert message.endswith("; try again later") == (status != 418)


@pytest.mark.usefixtures("logged_in")
def test_a_page_that_is_not_the_hub(hub, refusal, saved):
    hub.page = b"<html>Welcome to our hotel</html>"
    reason = f"{hub.endpoint} does not answer as the hub; check the network and HF_ENDPOINT"
    assert refusal(fetch) == f"{ANT} cannot be downloaded: {reason}"
    assert refusal(upload_pretrained, saved, ANT) == f"{ANT} cannot be uploaded: {reason}"


def writing_fails(error, monkeypatch):
    def write(*_, **__):
        raise error

    monkeypatch.setattr(file_download, "http_get", write)


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
        writing_fails(error, patch)
        message = refusal(fetch)
    assert f"no space left for the cache {cache()}; free some, or set HF_HOME" in message
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


def test_an_unforeseen_failure_is_shortened(hub, refusal, monkeypatch):
    hub.add(ANT, CONTENT)
    writing_fails(RuntimeError("storage:\n  " + "very " * 100), monkeypatch)
    message = refusal(fetch)
    assert message.startswith(f"{ANT} cannot be downloaded: storage: very very ")
    assert message.endswith("…; try again")
    assert len(message) < 300


def test_a_cache_that_cannot_be_written(hub, refusal):
    hub.add(ANT, CONTENT)
    Path(cache()).parent.mkdir()
    Path(cache()).write_text("in the way")
    message = refusal(fetch)
    assert message.startswith(f"{ANT} cannot be downloaded: {cache()}/models--lab--ant-1.0")
    assert ": Not a directory" in message


def test_a_repository_of_something_else(hub, refusal):
    hub.add(ANT, {"pytorch_model.bin": b"", CARD: b"# other"})
    hub.add("lab/empty", {})
    message = refusal(fetch)
    assert f"{ANT} is on the hub but lacks config.json, model.safetensors; expected" in message
    assert "lacks y, x;" in refusal(download_repository, ANT, ["y", "x"])
    assert "lacks config.json;" in refusal(download_repository, "lab/empty", [CONFIG])


def test_an_upload_when_nobody_is_logged_in(hub, refusal, saved):
    assert refusal(upload_pretrained, saved, ANT) == (
        f"{ANT} cannot be uploaded: nobody is logged in; log in with `hf auth login`, or set "
        "HF_TOKEN"
    )
    assert hub.asked == []


@pytest.mark.parametrize(("token", "name"), [(READER, ANT), (WRITER, "others/ant")])
@pytest.mark.parametrize("there", [True, False])
def test_an_upload_that_is_not_permitted(hub, refusal, saved, monkeypatch, token, name, there):
    monkeypatch.setenv("HF_TOKEN", token)
    if there:
        hub.add(name, CONTENT)
    message = refusal(upload_pretrained, saved, name)
    assert message.startswith(f"{name} cannot be uploaded: the hub does not permit it (You don't")
    assert message.endswith("log in with `hf auth login` and a token that may write to it")
    assert not there or len(hub.repositories[name].commits) == 1


@pytest.mark.usefixtures("logged_in")
def test_without_a_network(hub, refusal, saved, monkeypatch):
    hub.stop()
    message = refusal(upload_pretrained, saved, ANT)
    assert message.startswith(f"{ANT} cannot be uploaded: the hub at {hub.endpoint} cannot be rea")
    assert message.endswith("; check the network and try again")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(upload_pretrained, saved, ANT)
    assert message.endswith("HF_HUB_OFFLINE forbids the network; unset HF_HUB_OFFLINE")
    assert "HF_HUB_OFFLINE forbids the network, and the cache" in refusal(fetch)


@pytest.mark.usefixtures("logged_in")
def test_a_public_repository_does_not_get_what_is_private(hub, refusal, saved):
    hub.add(ANT, CONTENT)
    message = refusal(upload_pretrained, saved, ANT, private=True)
    assert message.startswith(f"{ANT} is on the hub already and public, nothing was uploaded")
    assert f"{hub.endpoint}/{ANT}/settings" in message
    assert len(hub.repositories[ANT].commits) == 1
    assert not [request for request in hub.asked if request.startswith("PUT")]


@pytest.mark.usefixtures("logged_in")
def test_a_card_that_the_hub_refuses(hub, refusal, saved, caplog):
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
