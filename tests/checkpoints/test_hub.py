"""Sharing through the hub, a stand-in of it on this machine: what is sent and what arrives."""

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
from bottleneck_transformer_flax.checkpoints.hub import (
    download_repository,
    is_repository,
    upload_pretrained,
)
from bottleneck_transformer_flax.checkpoints.locations import CARD, CLASSES, CONFIG, WEIGHTS
from bottleneck_transformer_flax.errors import CheckpointError
from checkpoints.hub_sharing import ANT, CONTENT, FILES, NAMES, cache, fetch
from reference.hub_client import environment
from training.tiny import CROPPED, SMALL, assert_same_bits, entries


@pytest.mark.usefixtures("logged_in")
def test_what_was_shared_comes_back_bit_for_bit(hub, small_directory, small_variables, capfd):
    address = upload_pretrained(small_directory, ANT, message="The first ant")
    assert address == f"{hub.endpoint}/{ANT}"
    folder = fetch()
    assert entries(folder) == sorted(FILES)
    back = load_pretrained(folder)
    assert back.model.config == SMALL
    assert_same_bits(back.variables, small_variables)
    assert (back.preprocessing, back.classes) == (CROPPED, NAMES)
    assert (folder / CARD).read_text(encoding="utf-8") == "# čard\n"
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("logged_in")
def test_an_upload_is_one_commit_of_the_directorys_files_alone(hub, small_directory):
    (small_directory / "thesis.tex").write_text("three years")
    upload_pretrained(small_directory, ANT)
    _, commit = hub.repositories[ANT].commits
    assert set(commit.files) == {*FILES, ".gitattributes"}
    assert commit.message == "Upload a Bottleneck Transformer"
    upload_pretrained(small_directory, ANT, message="The same")
    assert len(hub.repositories[ANT].commits) == 2
    (small_directory / CARD).unlink()
    (small_directory / CLASSES).write_text('["a", "b", "c"]')
    upload_pretrained(small_directory, ANT, message="Other names")
    *_, commit = hub.repositories[ANT].commits
    assert (len(hub.repositories[ANT].commits), commit.message) == (3, "Other names")
    assert commit.files[CARD] == "# čard\n".encode()
    assert load_pretrained(fetch()).classes == ("a", "b", "c")


@pytest.mark.usefixtures("logged_in")
def test_a_runs_directory_stands_for_its_pretrained_folder(hub, small_directory):
    (small_directory.parent / "run").mkdir()
    small_directory.rename(small_directory.parent / "run" / "pretrained")
    upload_pretrained(small_directory.parent / "run", ANT)
    assert set(FILES) < set(hub.repositories[ANT].commits[-1].files)


def test_only_the_named_files_are_fetched_and_those_in_the_cache_not_again(hub):
    hub.add(ANT, CONTENT)
    folder = download_repository(ANT, ["*.json", "absent.txt"])
    assert entries(folder) == [CONFIG]
    assert fetch() == folder
    assert {name: (folder / name).read_bytes() for name in entries(folder)} == {
        name: CONTENT[name] for name in (CONFIG, WEIGHTS, CARD)
    }
    assert sum(request.endswith(CONFIG) and "GET" in request for request in hub.asked) == 1


def test_a_branch_a_tag_and_a_commit_can_be_named(hub):
    repository = hub.add(ANT, CONTENT)
    repository.tags["v1.0"] = first = repository.commits[-1].name
    repository.commit("second", {**CONTENT, CONFIG: b"{2}"})
    assert (fetch() / CONFIG).read_bytes() == b"{2}"
    assert (fetch(f"{ANT}@main") / CONFIG).read_bytes() == b"{2}"
    assert (fetch(f"{ANT}@v1.0") / CONFIG).read_bytes() == b"{}"
    assert fetch(f"{ANT}@{first}") == fetch(f"{ANT}@v1.0")


@pytest.mark.usefixtures("logged_in")
def test_a_private_repository_is_made_and_read_by_who_is_logged_in(
    hub, small_directory, monkeypatch
):
    upload_pretrained(small_directory, ANT, private=True)
    assert hub.repositories[ANT].private
    upload_pretrained(small_directory, ANT, private=True)
    fetch()
    upload_pretrained(small_directory, "lab/bee")
    assert not hub.repositories["lab/bee"].private


# Without a network.


def test_without_a_network_the_cache_serves(hub, monkeypatch, refusal):
    hub.add(ANT, CONTENT)
    folder = fetch()
    hub.stop()
    assert fetch() == folder
    assert (folder / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]
    message = refusal(fetch, "lab/bee")
    assert message.startswith(f"lab/bee cannot be downloaded: the hub at {hub.endpoint} cannot be ")
    assert f"the cache {cache()} does not hold all of it; check the network" in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch() == folder
    assert "HF_HUB_OFFLINE forbids the network, and the cache" in refusal(fetch, "lab/bee")


@pytest.mark.parametrize("failure", [{"hang_up": True}, {"status": 503}])
def test_the_cache_serves_when_the_hub_fails_too(hub, failure):
    hub.add(ANT, CONTENT)
    folder = fetch()
    vars(hub).update(failure)
    assert fetch() == folder


@pytest.mark.parametrize(
    "source", ["lab/ant", "l/a", "Lab_1/ant.2-x", "lab/ant@v1.0", "lab/ant@3f2a", "_/_", "9/9"]
)
def test_names_of_repositories(source):
    assert is_repository(source)
    utils.validate_repo_id(source.partition("@")[0])


@pytest.mark.parametrize(
    "source",
    [
        "",
        "ant",
        "lab/ant/x",
        "/ant",
        "lab/",
        "./ant",
        "../ant",
        "~/ant",
        "-lab/ant",
        "lab/ant.",
        "lab/a--b",
        "lab/a..b",
        "lab/ant.git",
        "lab/čat",
        "lab/an t",
        "lab/ant\n",
        "lab/ant@",
        "lab/ant@a/b",
        "lab/ant@..",
        "lab@1/ant",
        "lab\\ant",
        "lab/" + "a" * 97,
    ],
)
def test_what_is_no_name_of_a_repository(hub, refusal, source):
    assert not is_repository(source)
    message = refusal(fetch, source)
    assert message.startswith(f"{source!r} is not the name of a hub repository; expected owner/")
    assert refusal(upload_pretrained, Path("saved"), source) == message
    assert hub.asked == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_are_for_terminals(hub, monkeypatch, capfd):
    hub.add(ANT, CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Terminal())
        download_repository(ANT, [CONFIG])
        assert "Fetching 1 files" in sys.stderr.getvalue()
    fetch()
    assert capfd.readouterr() == ("", "")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        download_repository(ANT, ["other.bin"])


def test_what_the_library_warns_of_is_not_shown(hub, monkeypatch, capfd, caplog):
    hub.add(ANT, CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    fetch()
    with pytest.raises(CheckpointError):
        fetch(files=["absent"], required=())
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.fixture
def verbosity():
    """Set how much the library says, for one test."""
    before = utils.logging.get_verbosity()
    yield utils.logging.set_verbosity
    utils.logging.set_verbosity(before)


@pytest.mark.parametrize(
    ("set_to", "within"), [(logging.WARNING, logging.ERROR), (logging.INFO, logging.INFO)]
)
def test_who_has_set_how_much_the_library_says_is_not_overruled(
    verbosity, monkeypatch, set_to, within
):
    said = []

    def download(*arguments, **options):
        said.append(utils.logging.get_verbosity())
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    verbosity(set_to)
    with pytest.raises(CheckpointError):
        fetch()
    assert set(said) == {within}
    assert utils.logging.get_verbosity() == set_to


def test_the_librarys_settings_are_as_before(hub, verbosity):
    verbosity(logging.WARNING)
    with pytest.raises(CheckpointError):
        fetch()
    assert utils.logging.get_verbosity() == logging.WARNING
    assert not utils.are_progress_bars_disabled()


def test_another_process_is_told_by_its_environment_alone(hub, tmp_path):
    hub.add(ANT, CONTENT)
    program = f"""
import sys
from bottleneck_transformer_flax.checkpoints.hub import download_repository, is_repository
assert is_repository({ANT!r}) and "huggingface_hub" not in sys.modules
print(download_repository({ANT!r}, {FILES!r}))
assert "jax" not in sys.modules
"""

    def run(**more):
        return subprocess.run(
            [sys.executable, "-c", program],
            env=environment(hub, tmp_path / "home") | more,
            capture_output=True,
            text=True,
            timeout=60,
        )

    online = run()
    assert online.stderr == ""
    folder = Path(online.stdout.strip())
    assert folder.is_relative_to(tmp_path / "home" / "hub")
    assert entries(folder) == sorted({CONFIG, WEIGHTS, CARD})
    hub.stop()
    assert run(HF_HUB_OFFLINE="1").stdout == run().stdout == online.stdout
