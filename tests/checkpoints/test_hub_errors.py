"""Whatever goes wrong with the hub is told in one line: the repository, the cause, the remedy."""

import errno
import sys

import httpx2
import pytest
from huggingface_hub import constants, errors, utils

from bottleneck_transformer_flax.checkpoints.hub import download_repository, upload_pretrained
from bottleneck_transformer_flax.checkpoints.hub_errors import explain
from bottleneck_transformer_flax.checkpoints.pretrained_files import CARD, CLASSES, CONFIG
from checkpoints.shared import ANT, fetch
from reference.hub import NO_NETWORK

DOWNLOAD, UPLOAD = f"{ANT} cannot be downloaded: ", f"{ANT} cannot be uploaded: "
PAGE = f"{constants.ENDPOINT}/{ANT}"
NOT_THERE = (
    "the hub has no such repository, or it is private; check the name, or log in with "
    "`hf auth login`"
)
GATED = (
    f"its owner grants access on request; request it at {PAGE}, then log in with `hf auth login`"
)
NO_REVISION = f"it has no branch, tag or commit 'v9'; choose one from {PAGE}/tree/main"
REFUSED = "the hub does not accept the token"
TOKEN = "; log in again with `hf auth login`, or set another HF_TOKEN"
FORBIDDEN = "the hub does not permit it (no); log in with `hf auth login` and a token that may"
FULL = "there is no space left for the cache"


@pytest.mark.parametrize(
    ("status", "code", "said", "uploading", "told"),
    [
        (401, "", "Invalid username or password.", False, NOT_THERE),
        (404, "RepoNotFound", "", True, NOT_THERE),
        (403, "GatedRepo", "", False, GATED),
        (404, "RevisionNotFound", "", False, NO_REVISION),
        (401, "", "credentials", False, f"{REFUSED} (credentials){TOKEN}"),
        (401, "", "no", True, f"{REFUSED} (no){TOKEN}"),
        (403, "", "no", False, f"{FORBIDDEN} read it"),
        (403, "", "no", True, f"{FORBIDDEN} write to it"),
        (418, "", "teapot", False, "the hub answered with 418 (teapot)"),
        (429, "", "slowly", False, "the hub answered with 429 (slowly); try again later"),
        (500, "", "failed", True, "the hub answered with 500 (failed); try again later"),
    ],
)
def test_what_the_hub_answers(status, code, said, uploading, told):
    headers = {"X-Error-Code": code, "X-Error-Message": said}
    request = httpx2.Request("GET", f"{constants.ENDPOINT}/api/models/{ANT}")
    with pytest.raises(errors.HfHubHTTPError) as caught:
        utils.hf_raise_for_status(httpx2.Response(status, headers=headers, request=request))
    assert explain(caught.value, f"{ANT}@v9", uploading=uploading) == told


@pytest.mark.usefixtures("logged_in")
def test_failures_name_the_repository_and_the_cause(hub, refusal, saved):
    assert refusal(fetch) == DOWNLOAD + NOT_THERE
    hub.failure = (500, b"")
    assert refusal(fetch).startswith(f"{DOWNLOAD}the hub answered with 500 (")
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


def test_nobody_logged_in_or_no_network(hub, refusal, saved, monkeypatch):
    assert refusal(upload_pretrained, saved, ANT) == (
        f"{UPLOAD}nobody is logged in; log in with `hf auth login`, or set HF_TOKEN"
    )
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "some-token")
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
