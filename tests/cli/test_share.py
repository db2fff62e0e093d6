"""``botnet share``, and a shared model wherever a checkpoint is asked for."""

import pytest

from bottleneck_transformer_flax import load_pretrained
from training.tiny import assert_same_bits


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "some-token")


@pytest.mark.usefixtures("logged_in")
def test_a_run_is_shared_and_used_by_its_name(call, finished_run, hub):
    called = call("share", "lab/insects")
    assert called.code == 0, called
    assert f"shared  {hub.endpoint}/lab/insects" in called.out
    assert hub.repositories["lab/insects"].version("main").files["README.md"] == b"# Insects\n"
    images = ("data/val/ant/0.png", "data/val/bee")
    shared = call("predict", *images, "--checkpoint", "lab/insects", "--json")
    assert shared.code == 0, shared
    assert shared.out == call("predict", *images, "--json").out
    imported = call("import", "lab/insects", "--out", "copy", "--json")
    assert imported.code == 0, imported
    assert_same_bits(load_pretrained("copy").variables, load_pretrained(finished_run).variables)

    private = call("share", "lab/secret", "--private", "--json").json()
    assert private["url"] == f"{hub.endpoint}/lab/secret"
    assert private["repository"] == "lab/secret"
    assert hub.repositories["lab/secret"].private


def test_a_mistyped_path_or_name_asks_the_hub_for_nothing(fails, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    told = fails(1, "predict", "image.png", "--checkpoint", "runs/nothing")
    assert "runs/nothing does not exist" in told
    told = fails(2, "share", "insects", "--checkpoint", "botnet_tiny")
    assert "is not the name of a hub repository" in told
    assert (hub.asked, hub.repositories) == ([], {})
