"""``botnet share``, and a shared model wherever a checkpoint is asked for."""

import jax
import numpy as np
import pytest
import torch

from bottleneck_transformer_flax import (
    BoTNet,
    Preprocessing,
    get_config,
    load_pretrained,
    save_pretrained,
)
from bottleneck_transformer_flax.models.flops import abstract_variables
from reference.timm_networks import timm
from reference.variables import random_variables
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


@pytest.mark.slow
@pytest.mark.usefixtures("logged_in")
def test_timm_loads_what_was_shared_of_a_model_that_it_has(call, hub, tmp_path, monkeypatch):
    """At another size and with other classes than timm's own weights, twice."""
    monkeypatch.chdir(tmp_path)
    size, classes = (96, 128), ("ant", "bee", "cat")
    model = BoTNet(config=get_config("eca_botnext26ts_256", num_classes=3))
    preprocessing = Preprocessing(size=size, crop=0.9, mean=(0.1, 0.2, 0.3))
    for seed in (0, 1):
        variables = random_variables(abstract_variables(model, size), seed=seed)
        save_pretrained("own", model, variables, preprocessing, classes)
        called = call("share", "lab/insects", "--checkpoint", "own")
        assert called.code == 0, called
        assert "timm.create_model('hf-hub:lab/insects@timm', pretrained=True)" in called.out
        theirs = timm.create_model("hf-hub:lab/insects@timm", pretrained=True).eval()
        images = np.random.default_rng(2).standard_normal((2, *size, 3), np.float32)
        with torch.no_grad():
            logits = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
        expected = np.asarray(jax.jit(model.apply)(variables, images))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert list(theirs.pretrained_cfg["mean"]) == [0.1, 0.2, 0.3]
    assert theirs.pretrained_cfg["label_names"] == list(classes)
    # Our own files are on the main branch as before.
    assert load_pretrained("lab/insects").classes == classes
