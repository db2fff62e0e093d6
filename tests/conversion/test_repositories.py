"""Importing from a stand-in of the hub: a repository says itself what its weights are."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from bottleneck_transformer_flax import Execution, load_pretrained, save_pretrained
from bottleneck_transformer_flax.checkpoints.hub import upload_pretrained
from bottleneck_transformer_flax.conversion import importing as module
from bottleneck_transformer_flax.conversion.importing import import_checkpoint
from bottleneck_transformer_flax.conversion.timm import read_timm_config
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from conversion.small_timm import NAME, REPOSITORY, head_of
from reference.hub import NO_NETWORK
from training.tiny import assert_same_bits


@pytest.fixture
def repository(hub, arrays, config):
    files = {"config.json": config, "model.safetensors": save(arrays), "pytorch_model.bin": b"x"}
    return hub.add(REPOSITORY, files)


def changed(config, pretrained_cfg=None, **changes):
    values = json.loads(config)
    values["pretrained_cfg"] |= pretrained_cfg or {}
    return json.dumps(values | changes).encode()


def test_the_published_weights_with_all_that_is_known(repository, hub):
    imported = import_checkpoint(REPOSITORY)
    assert not any("pytorch_model.bin" in request for request in hub.asked)
    assert (imported.variant, imported.licence) == (NAME, "apache-2.0")
    assert (imported.published.top1, imported.published.top5) == (79.262, 94.6)
    assert imported.pretrained.classes == imagenet.class_names()
    assert imported.pretrained.preprocessing == imported.published.preprocessing
    described = ('license: "apache-2.0"', f'base_model: "{REPOSITORY}"', "79.262 %")
    assert all(part in imported.card for part in (*described, "trained by timm"))

    # Another revision may hold other weights.
    repository.tags["v1"] = repository.commits[0].name
    tagged = import_checkpoint(f"{REPOSITORY}@v1")
    assert (tagged.published, tagged.licence) == (None, "apache-2.0")

    # What was downloaded once needs no network any more.
    hub.failure = NO_NETWORK
    again = import_checkpoint(f"{REPOSITORY}@main")
    assert again.published == imported.published
    assert_same_bits(again.pretrained.variables, imported.pretrained.variables)


def test_what_is_uploaded_meanwhile_is_not_mixed_in(repository, hub, monkeypatch):
    def read_slowly(path, name):
        repository.commit("other weights", {"model.safetensors": b"other"})
        return read_timm_config(path, name)

    monkeypatch.setattr(module, "read_timm_config", read_slowly)
    import_checkpoint(REPOSITORY)
    files = [request for request in hub.asked if "/resolve/" in request]
    assert len({request.split("/resolve/")[1].split("/")[0] for request in files}) == 1
    assert any(request.endswith("model.safetensors") for request in files)


def test_a_fine_tuned_model_with_its_own_classes_in_a_pickled_file(hub, arrays, config, tmp_path):
    cfg = {"mean": [0.5, 0.5, 0.5], "license": "cc-by-4.0"}
    described = changed(config, cfg, label_names=["ant", "bee"], num_classes=2)
    tensors = {name: torch.tensor(array) for name, array in (arrays | head_of(2)).items()}
    torch.save(tensors, tmp_path / "weights.bin")
    weights = (tmp_path / "weights.bin").read_bytes()
    files = {"config.json": described, "pytorch_model.bin": weights}
    hub.add("someone/insects", files | {"README.md": b"---\nlicense: mit\n---\n"})
    imported = import_checkpoint("someone/insects")
    # The card's licence comes before that of config.json.
    assert (imported.licence, imported.published) == ("mit", None)
    assert imported.pretrained.classes == ("ant", "bee")
    assert imported.pretrained.preprocessing.mean == (0.5, 0.5, 0.5)
    assert "trained by timm" not in imported.card
    assert "| licence | mit |" in imported.card
    np.testing.assert_array_equal(
        imported.pretrained.variables["params"]["head"]["kernel"], head_of(2)["head.fc.weight"].T
    )


@pytest.mark.usefixtures("hub")
def test_our_own_repository_is_copied_with_its_card(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "some-token")
    own = load_pretrained("botnet_tiny")
    card = "---\nlicense: mit\n---\n# Shoes\n"
    upload_pretrained(save_pretrained(tmp_path / "own", *own, card=card), "lab/shoes")
    imported = import_checkpoint("lab/shoes", classes=tuple("abcdefghij"), image_size=(32, 40))
    assert (imported.variant, imported.card, imported.licence) == ("botnet_tiny", card, "mit")
    assert imported.pretrained.classes == tuple("abcdefghij")
    assert imported.pretrained.preprocessing == own.preprocessing.replace(size=(32, 40))
    with pytest.raises(ConfigError, match="2 class names for the 10 outputs of lab/shoes@"):
        import_checkpoint("lab/shoes", classes=("a", "b"))


def test_repositories_that_cannot_be_imported(repository, hub, arrays, config):
    names = changed(config, label_names=["a", "b"])
    resnet = changed(config, architecture="resnet50")
    hub.add("someone/two", {"config.json": names, "model.safetensors": save(arrays)})
    for name, files, told in (
        ("bare", {"config.json": config}, "has neither model.safetensors nor pytorch_model.bin"),
        ("resnet", {"config.json": resnet}, "is a resnet50, which this package does not have"),
        ("bert", {"config.json": b'{"model_type": "bert"}'}, "does not describe one of timm's"),
        ("data", {"README.md": b"#"}, "lacks config.json"),
    ):
        hub.add(f"someone/{name}", files)
        with pytest.raises(CheckpointError, match=told):
            import_checkpoint(f"someone/{name}")
    with pytest.raises(ConfigError, match="2 class names for the 1000 outputs of someone/two"):
        import_checkpoint("someone/two")
    with pytest.raises(ConfigError, match="omit --variant"):
        import_checkpoint(REPOSITORY, variant=NAME)


def test_a_folder_named_as_the_owner(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    with pytest.raises(CheckpointError, match=r"hub, write timm/eca_.*@main"):
        import_checkpoint(REPOSITORY)
    assert import_checkpoint(f"{REPOSITORY}@main").variant == NAME


@pytest.mark.usefixtures("repository")
def test_a_repository_of_timms_loads_as_if_it_had_been_imported(tmp_path):
    imported, execution = import_checkpoint(REPOSITORY).pretrained, Execution(remat=True)
    loaded = load_pretrained(REPOSITORY, execution=execution)
    assert loaded.model.execution == execution
    assert loaded.model.config == imported.model.config
    assert loaded[2:] == imported[2:]
    assert_same_bits(loaded.variables, imported.variables)
    resized = load_pretrained(f"{REPOSITORY}@main", image_size=(64, 96))
    saved = load_pretrained(save_pretrained(tmp_path / "eca", *imported), image_size=(64, 96))
    assert resized.preprocessing == saved.preprocessing
    assert_same_bits(resized.variables, saved.variables)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_copy_of_a_repository_of_timms_is_imported_and_loaded(tmp_path, arrays, config, weights):
    described = changed(config, {"license": "mit"}, label_names=["ant", "bee"])
    (tmp_path / "config.json").write_bytes(described)
    with pytest.raises(CheckpointError, match="has neither model"):
        load_pretrained(tmp_path)
    if weights.endswith(".bin"):
        tensors = {name: torch.tensor(array) for name, array in (arrays | head_of(2)).items()}
        torch.save(tensors, tmp_path / weights)
    else:
        (tmp_path / weights).write_bytes(save(arrays | head_of(2)))
    imported = import_checkpoint(tmp_path)
    assert (imported.variant, imported.licence, imported.published) == (NAME, "mit", None)
    assert f"| origin | the folder `{tmp_path.name}`, in timm's format |" in imported.card
    loaded = load_pretrained(str(tmp_path))
    assert loaded.classes == ("ant", "bee")
    assert loaded[2:] == imported.pretrained[2:]
    assert_same_bits(loaded.variables, imported.pretrained.variables)
    with pytest.raises(ConfigError, match="is a folder, which states its model; omit --variant"):
        import_checkpoint(tmp_path, variant=NAME)
