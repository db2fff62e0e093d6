"""What is uploaded to the hub, and what is downloaded, from a stand-in for it."""

import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, utils

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.checkpoints.hub import (
    download_repository,
    is_repository,
    upload_pretrained,
)
from bottleneck_transformer_flax.checkpoints.pretrained_files import CARD, CLASSES, CONFIG, WEIGHTS
from bottleneck_transformer_flax.errors import CheckpointError
from checkpoints.shared import ANT, CONTENT, fetch
from reference.hub import HANGS_UP, NO_NETWORK
from training.tiny import assert_same_bits, entries

SAVED = (CONFIG, WEIGHTS, "preprocessing.json", CLASSES)
OTHER_NAMES = """ ant lab/ant/x /ant lab/ ./ant ../ant ~/ant -lab/ant lab/ant. lab/a--b lab/a..b
lab/ant.git lab/čat lab/ant@ lab/ant@a/b lab/ant@.. lab@1/ant lab\\ant"""


@pytest.mark.usefixtures("logged_in")
def test_what_was_shared_arrives_bit_for_bit(hub, saved, capfd):
    assert upload_pretrained(saved, ANT) == f"{hub.endpoint}/{ANT}"
    folder = fetch()
    assert {name: (folder / name).read_bytes() for name in entries(folder)} == {
        name: (saved / name).read_bytes() for name in (CARD, *SAVED)
    }
    assert_same_bits(load_pretrained(ANT).variables, load_pretrained(saved).variables)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("logged_in")
def test_an_upload_is_one_commit_of_the_directorys_own_files(hub, saved):
    (saved / "thesis.tex").write_text("three years")
    run = saved.parent / "run"
    shutil.copytree(saved, run / "pretrained")
    upload_pretrained(run, ANT)
    commits = hub.repositories[ANT].commits
    assert set(commits[-1].files) == {CARD, *SAVED, ".gitattributes"}
    assert (len(commits), commits[-1].message) == (2, "Upload a Bottleneck Transformer")
    (saved / CARD).unlink()
    (saved / CLASSES).write_text('["a", "b", "c"]')
    upload_pretrained(saved, ANT, message="Other names")
    assert (len(commits), commits[-1].message) == (3, "Other names")
    assert commits[-1].files[CARD] == "# čard\n".encode()
    assert commits[-1].files[CLASSES] == b'["a", "b", "c"]'


@pytest.mark.usefixtures("logged_in")
def test_what_is_private_stays_private(hub, refusal, saved):
    for _ in range(2):
        upload_pretrained(saved, ANT, private=True)
        assert hub.repositories[ANT].private
    fetch()
    upload_pretrained(saved, "lab/bee")
    assert not hub.repositories["lab/bee"].private
    told = refusal(upload_pretrained, saved, "lab/bee", private=True)
    assert told.startswith("lab/bee is on the hub already and public, nothing was uploaded")
    assert f"{hub.endpoint}/lab/bee/settings" in told
    assert len(hub.repositories["lab/bee"].commits) == 2


@pytest.mark.usefixtures("ant")
def test_only_named_files_are_downloaded_and_only_once(hub):
    folder = download_repository(ANT, [CONFIG, "absent.txt"])
    assert entries(folder) == [CONFIG]
    assert fetch() == folder
    assert entries(folder) == sorted((CONFIG, WEIGHTS, CARD))
    assert sum(request.endswith(CONFIG) and "GET" in request for request in hub.asked) == 1


def test_a_branch_a_tag_and_a_commit_can_be_named(ant):
    ant.tags["v1.0"] = first = ant.commits[-1].name
    ant.commit("second", {**CONTENT, CONFIG: b"{2}"})
    assert (fetch() / CONFIG).read_bytes() == b"{2}"
    assert (fetch(f"{ANT}@main") / CONFIG).read_bytes() == b"{2}"
    assert (fetch(f"{ANT}@v1.0") / CONFIG).read_bytes() == b"{}"
    assert fetch(f"{ANT}@{first}") == fetch(f"{ANT}@v1.0")


@pytest.mark.usefixtures("ant")
@pytest.mark.parametrize("failure", [NO_NETWORK, HANGS_UP, (503, b""), None])
def test_the_cache_serves_without_the_hub(hub, monkeypatch, failure):
    folder = fetch()
    hub.failure = failure
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", failure is None)
    assert fetch() == folder
    assert (folder / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


@pytest.mark.usefixtures("ant")
def test_a_part_never_passes_for_the_whole(hub, refusal):
    hub.cut_after = 5000
    told = refusal(fetch)
    assert told.startswith(f"{ANT} cannot be downloaded: the hub at {hub.endpoint} cannot be rea")
    (stored,) = Path(constants.HF_HUB_CACHE).glob("models--*")
    assert not list(stored.rglob(WEIGHTS))
    hub.cut_after = None
    download_repository(ANT, [CONFIG])
    for hub.failure in (NO_NETWORK, HANGS_UP):
        held = f"and the cache {constants.HF_HUB_CACHE} does not hold all of it; check the network"
        assert held in refusal(fetch)
    hub.failure = None
    assert (fetch() / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


@pytest.mark.parametrize("source", ["lab/ant", "Lab_1/ant.2-x", "lab/ant@v1.0", "_/_", "9/9"])
def test_names_of_repositories(source):
    assert is_repository(source)
    utils.validate_repo_id(source.partition("@")[0])


@pytest.mark.parametrize(
    "source", [*OTHER_NAMES.split(), "", "lab/an t", "lab/ant\n", "lab/" + "a" * 97]
)
def test_other_names_are_refused_before_any_request(hub, refusal, source):
    told = refusal(fetch, source)
    assert told.startswith(f"{source!r} is not the name of a hub repository; expected owner/")
    assert refusal(upload_pretrained, Path("saved"), source) == told
    assert hub.asked == []


@pytest.mark.usefixtures("ant")
def test_progress_bars_are_for_terminals_and_warnings_for_nobody(monkeypatch, capfd, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", io.StringIO())
        patch.setattr(sys.stderr, "isatty", lambda: True)
        download_repository(ANT, [CONFIG])
        assert "Fetching 1 files" in sys.stderr.getvalue()
        patch.setattr(sys, "stderr", None)
        download_repository(ANT, ["other.bin"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    fetch()
    with pytest.raises(CheckpointError):
        fetch(files=["absent"], required=())
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_the_librarys_settings_are_as_before(monkeypatch):
    seen = []

    def download(*arguments, **options):
        seen.append(utils.logging.get_verbosity())
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for verbosity in (logging.WARNING, logging.INFO):
        monkeypatch.setattr(logging.getLogger("huggingface_hub"), "level", verbosity)
        with pytest.raises(CheckpointError):
            fetch()
        assert utils.logging.get_verbosity() == verbosity
    assert seen == [logging.ERROR, logging.INFO]
    assert not utils.are_progress_bars_disabled()


@pytest.mark.usefixtures("ant")
def test_another_process_is_configured_by_its_environment_alone():
    program = f"""
import sys
from bottleneck_transformer_flax.checkpoints.hub import download_repository, is_repository
assert is_repository({ANT!r}) and "huggingface_hub" not in sys.modules
print(download_repository({ANT!r}, {[CONFIG, WEIGHTS]!r}))
assert "jax" not in sys.modules
"""
    folder = fetch()
    home = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(Path(constants.HF_HUB_CACHE).parent)}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.stdout, ran.stderr) == (f"{folder}\n", "")
