"""Sharing through a stand-in of the hub on this machine: what is sent, and what arrives."""

import io
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, utils

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.checkpoints import hub as module
from bottleneck_transformer_flax.checkpoints.hub import download_repository, upload_pretrained
from bottleneck_transformer_flax.checkpoints.pretrained_files import CARD, CLASSES, CONFIG, WEIGHTS
from bottleneck_transformer_flax.errors import CheckpointError
from checkpoints.shared import ANT, CONTENT, fetch
from reference.hub_client import environment
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
    assert commits[-1].message == "Upload a Bottleneck Transformer"
    upload_pretrained(saved, ANT, message="The same")
    assert len(commits) == 2
    (saved / CARD).unlink()
    (saved / CLASSES).write_text('["a", "b", "c"]')
    upload_pretrained(saved, ANT, message="Other names")
    assert (len(commits), commits[-1].message) == (3, "Other names")
    assert commits[-1].files[CARD] == "# čard\n".encode()
    assert (fetch(files=SAVED) / CLASSES).read_text() == '["a", "b", "c"]'


@pytest.mark.usefixtures("logged_in")
def test_a_private_repository_stays_private_and_is_read_by_who_is_logged_in(hub, saved):
    for _ in range(2):
        upload_pretrained(saved, ANT, private=True)
        assert hub.repositories[ANT].private
    fetch()
    upload_pretrained(saved, "lab/bee")
    assert not hub.repositories["lab/bee"].private


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
@pytest.mark.parametrize("failure", ["no network", "offline", "hang up", "503"])
def test_the_cache_serves_without_the_hub(hub, monkeypatch, failure):
    folder = fetch()
    if failure == "no network":
        hub.stop()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", failure == "offline")
    hub.hang_up = failure == "hang up"
    hub.status = 503 if failure == "503" else None
    assert fetch() == folder
    assert (folder / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


@pytest.mark.parametrize(
    "source", ["lab/ant", "l/a", "Lab_1/ant.2-x", "lab/ant@v1.0", "lab/ant@3f2a", "_/_", "9/9"]
)
def test_names_of_repositories(source):
    assert module.is_repository(source)
    utils.validate_repo_id(source.partition("@")[0])


@pytest.mark.parametrize(
    "source", [*OTHER_NAMES.split(), "", "lab/an t", "lab/ant\n", "lab/" + "a" * 97]
)
def test_other_names_are_refused_before_any_request(hub, refusal, source):
    assert not module.is_repository(source)
    message = refusal(fetch, source)
    assert message.startswith(f"{source!r} is not the name of a hub repository; expected owner/")
    assert refusal(upload_pretrained, Path("saved"), source) == message
    assert hub.asked == []


@pytest.mark.usefixtures("ant")
def test_progress_bars_are_for_terminals(monkeypatch, capfd):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", io.StringIO())
        patch.setattr(sys.stderr, "isatty", lambda: True)
        download_repository(ANT, [CONFIG])
        assert "Fetching 1 files" in sys.stderr.getvalue()
    fetch()
    assert capfd.readouterr() == ("", "")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        download_repository(ANT, ["other.bin"])


@pytest.mark.usefixtures("ant")
def test_the_librarys_warnings_are_not_shown(monkeypatch, capfd, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    fetch()
    with pytest.raises(CheckpointError):
        fetch(files=["absent"], required=())
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("verbosity", "within"), [(logging.WARNING, logging.ERROR), (logging.INFO, logging.INFO)]
)
def test_the_librarys_settings_are_as_before(monkeypatch, verbosity, within):
    seen = []

    def download(*arguments, **options):
        seen.append(utils.logging.get_verbosity())
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    before = utils.logging.get_verbosity()
    utils.logging.set_verbosity(verbosity)
    try:
        with pytest.raises(CheckpointError):
            fetch()
        assert set(seen) == {within}
        assert utils.logging.get_verbosity() == verbosity
        assert not utils.are_progress_bars_disabled()
    finally:
        utils.logging.set_verbosity(before)


@pytest.mark.usefixtures("ant")
def test_another_process_is_configured_by_its_environment_alone(hub, tmp_path):
    program = f"""
import sys
from bottleneck_transformer_flax.checkpoints.hub import download_repository, is_repository
assert is_repository({ANT!r}) and "huggingface_hub" not in sys.modules
print(download_repository({ANT!r}, {[CONFIG, WEIGHTS, CARD]!r}))
assert "jax" not in sys.modules
"""
    variables, command = environment(hub, tmp_path / "home"), [sys.executable, "-c", program]
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    folder = Path(ran.stdout.strip())
    assert folder.is_relative_to(tmp_path / "home" / "hub")
    assert entries(folder) == sorted({CONFIG, WEIGHTS, CARD})
