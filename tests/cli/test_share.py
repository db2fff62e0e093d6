"""``botnet share``, and a shared model wherever a checkpoint is asked for."""

from pathlib import Path

import huggingface_hub
import pytest

from bottleneck_transformer_flax import load_pretrained
from reference.hub_server import WRITER
from training.tiny import assert_same_bits


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)


def test_a_run_is_shared_and_used(call, run, hub, logged_in):
    called = call("share", "lab/insects")
    assert called.code == 0, called
    assert f"shared  {hub.endpoint}/lab/insects" in called.out
    card = huggingface_hub.ModelCard(
        hub.repositories["lab/insects"].version("main").files["README.md"].decode()
    )
    evaluated = call("evaluate", "--json").json()
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["accuracy"] == pytest.approx(evaluated["top1"], abs=1e-6)
    assert card.data.library_name == "bottleneck-transformer-flax"

    images = ("data/val/ant/0.png", "data/val/bee")
    shared = call("predict", *images, "--checkpoint", "lab/insects", "--json")
    assert shared.code == 0, shared
    assert shared.out == call("predict", *images, "--json").out
    assert_same_bits(load_pretrained("lab/insects").variables, load_pretrained(run).variables)
    scored = call("evaluate", "--checkpoint", "lab/insects", "--data", "data", "--json")
    assert scored.json()["top1"] == evaluated["top1"]
    imported = call("import", "lab/insects", "--out", "copy", "--json")
    assert imported.code == 0, imported
    assert_same_bits(load_pretrained("copy").variables, load_pretrained(run).variables)


def test_a_repository_that_stays_empty_is_told(call, run, hub, logged_in, monkeypatch):
    def refuse(*arguments, **options):
        raise ConnectionError("gone")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", refuse)
    called = call("share", "lab/insects")
    assert called.code == 1
    assert "note: lab/insects is on the hub now, and holds nothing yet" in called.err
    again = call("share", "lab/insects")
    assert "holds nothing yet" not in again.err


def test_json(call, trained, hub, logged_in):
    shared = call("share", "lab/insects", "--private", "--json").json()
    assert shared["url"] == f"{hub.endpoint}/lab/insects"
    assert hub.repositories["lab/insects"].private


def test_what_cannot_be_shared(fails, trained, hub, monkeypatch):
    assert "nobody is logged in" in fails(1, "share", "lab/insects")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert "is not the name of a hub repository" in fails(1, "share", "insects")
    assert "nowhere does not exist" in fails(1, "share", "lab/insects", "--checkpoint", "nowhere")
    hub.stop()
    assert "cannot be reached" in fails(1, "share", "lab/insects")


def test_without_a_run_nothing_is_shared(fails, hub, logged_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "there is no finished run in runs/; name what to share" in fails(2, "share", "lab/x")
    assert hub.repositories == {}


def test_an_own_repository_takes_the_options_too(call, fails, run, hub, logged_in):
    assert call("share", "lab/insects").code == 0
    Path("names.txt").write_text("\ufeffx\ny\nz\n", encoding="utf-8")
    called = call(
        *("import", "lab/insects", "--out", "copy", "--image-size", "24", "20"),
        *("--classes", "names.txt", "--json"),
    )
    assert called.code == 0, called
    assert called.json()["image_size"] == [24, 20]
    assert load_pretrained("copy").classes == ("x", "y", "z")
    for content in ("x\n\nz", "x\nx\ny", ""):
        Path("names.txt").write_text(content, encoding="utf-8")
        told = fails(1, "import", "lab/insects", "--out", "new", "--classes", "names.txt")
        assert "has empty lines, or a name twice" in told


def test_a_foreign_repository_is_no_checkpoint(fails, trained, hub):
    hub.add("timm/botnet26t_256.c1_in1k", {"config.json": b"{}", "model.safetensors": b"x"})
    told = fails(1, "predict", "data", "--checkpoint", "timm/botnet26t_256.c1_in1k")
    assert "botnet import timm/botnet26t_256.c1_in1k --out FOLDER" in told
    assert not any("safetensors" in request for request in hub.asked)


def test_a_mistyped_path_is_not_looked_for_on_the_hub(fails, trained, hub):
    assert "runs/nothing does not exist" in fails(
        1, "predict", "data", "--checkpoint", "runs/nothing"
    )
    assert hub.asked == []
