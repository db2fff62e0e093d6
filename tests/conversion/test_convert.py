"""Importing a file: what comes with it, and every way in which it can be another model's."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from bottleneck_transformer_flax.checkpoints.pretrained import (
    Pretrained,
    save_pretrained,
)
from bottleneck_transformer_flax.conversion import importing as module
from bottleneck_transformer_flax.conversion.convert import export_checkpoint
from bottleneck_transformer_flax.conversion.importing import import_checkpoint
from bottleneck_transformer_flax.conversion.loading import load_pretrained
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.surgery import replace_head, resize_relative_positions
from bottleneck_transformer_flax.models.variants import get_config
from bottleneck_transformer_flax.preprocessing import Preprocessing
from conversion.small_timm import NAME, head_of
from reference.timm_networks import timm_model
from training.tiny import assert_same_bits


def imported(path, **options):
    return import_checkpoint(path, **{"variant": NAME} | options).pretrained


def test_an_imported_model_is_saved_and_loaded_unchanged(file, tmp_path):
    result = import_checkpoint(file, variant=NAME)
    pretrained = result.pretrained
    assert pretrained.preprocessing == Preprocessing(size=(256, 256), crop=0.95)
    assert pretrained.classes == imagenet.class_names()
    assert (result.variant, result.licence, result.published) == (NAME, None, None)
    for part in ("`eca.safetensors` (SHA-256 `", "79.262 %", "94.6 %", "apache-2.0", "of timm"):
        assert part in result.card
    loaded = load_pretrained(save_pretrained(tmp_path / "eca", *pretrained))
    assert loaded.model.config == pretrained.model.config
    assert_same_bits(loaded.variables, pretrained.variables)


def test_a_model_without_published_weights_has_its_projects_preprocessing(file, monkeypatch):
    monkeypatch.setattr(module, "published_weights", lambda variant, project: None)
    preprocessing = imported(file).preprocessing
    # The only one of timm's without.
    described = timm_model("botnet50ts_256").pretrained_cfg
    assert preprocessing.crop == described["crop_pct"]
    assert preprocessing.interpolation == described["interpolation"]


def test_another_head(arrays, tmp_path):
    path = tmp_path / "three.safetensors"
    save_file(arrays | head_of(3), path)
    pretrained = imported(path)
    assert pretrained.model.config.num_classes == 3
    assert pretrained.classes == ("class 0", "class 1", "class 2")
    assert imported(path, classes=("a", "b", "c")).classes == ("a", "b", "c")
    with pytest.raises(ConfigError, match="there are 2 class names for the 3 outputs"):
        imported(path, classes=("a", "b"))


@pytest.mark.parametrize("size", [(320, 192), (64, 512)])
def test_another_size_and_head_go_out_and_back_and_the_size_is_named(file, tmp_path, size, refusal):
    original, path = imported(file), tmp_path / "tuned.safetensors"
    resized = resize_relative_positions(original.model, original.variables, size)
    model, variables = replace_head(*resized, num_classes=4, rng=jax.random.key(0))
    preprocessing = original.preprocessing.replace(size=size)
    tuned = Pretrained(model, variables, preprocessing, ("a", "b", "c", "d"))
    assert export_checkpoint(tuned, path, "timm") == NAME
    message = refusal(imported, path)
    assert f"has relative position tables for {size[0]} × {size[1]} pixels, not for 256" in message
    assert f"(--image-size {size[0]} {size[1]})" in message
    back = imported(path, image_size=size)
    assert back.preprocessing == preprocessing
    assert_same_bits(back.variables, tuned.variables)


def test_another_known_model_is_named_and_the_same_with_other_arrays(file, arrays, refusal):
    told = refusal(imported, file, variant="botnet26t_256")
    assert told.startswith(f"{file} is not a botnet26t_256 of timm, but has the names of {NAME} of")
    assert " differences: " in told
    assert len(told) < 2000
    array = next(iter(arrays))
    save_file(arrays | {array: np.full_like(arrays[array], np.nan)}, file)
    assert refusal(imported, file) == (
        f"{file} has the names of a {NAME} of timm, but cannot be used as one: 1 difference: "
        f"{array} has values that are not finite"
    )
    own = file.with_name("model.safetensors")
    save_file({"params.head.bias": np.zeros(3, np.float32)}, own)
    assert "but has this package's own names" in refusal(imported, own, variant="botnet26t_256")


def test_arrays_beside_those_that_share_a_prefix_are_named(file, arrays, refusal):
    lightning = {f"model.{name}": array for name, array in arrays.items()}
    save_file(lightning | {"loss.weight": np.ones(3), "metric.total": np.ones(1)}, file)
    told = refusal(imported, file)
    assert told == (
        f"{file} has arrays beside the model: the names of all but 2 of its {len(arrays) + 2} "
        "arrays begin with 'model.'; save a file without the others: loss.weight, metric.total"
    )


def test_a_source_that_is_no_checkpoint(file, tmp_path, refusal):
    assert "no_file.pth does not exist" in refusal(imported, tmp_path / "no_file.pth")
    with pytest.raises(ConfigError, match="name it with --variant"):
        imported(file, variant=None)
    for name in ("botnet_t3", "botnet_tiny"):
        with pytest.raises(ConfigError, match=f"no other project's {name} is known"):
            imported(file, variant=name)
    with pytest.raises(ConfigError, match="did you mean 'botnet26t_256'"):
        imported(file, variant="botnet26t_265")


def test_what_another_project_does_not_have_is_not_exported(file, tmp_path):
    original = imported(file)
    changed = original._replace(model=BoTNet(config=get_config(NAME, activation="relu")))
    folded = original._replace(model=BoTNet(config=get_config(NAME, folded_batch_norm=True)))
    for pretrained, project, told in (
        (load_pretrained("botnet_tiny"), "timm", "is botnet_tiny, which timm does not have"),
        (changed, "timm", "is none of the variants, which timm"),
        (folded, "timm", "the batch norms of this model are folded"),
        (original, "distribuuuu", f"is {NAME}, which distribuuuu does not have"),
    ):
        with pytest.raises(CheckpointError, match=told):
            export_checkpoint(pretrained, tmp_path / "new.safetensors", project)
    assert not (tmp_path / "new.safetensors").exists()
