"""What timm's config.json says of a repository's weights."""

import json

import pytest

from bottleneck_transformer_flax.conversion.public_weights import PUBLIC_WEIGHTS
from bottleneck_transformer_flax.conversion.timm_repository import read_timm_config
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.preprocessing import Preprocessing
from reference.timm_models import timm, timm_model

OF_TIMM = [weights for weights in PUBLIC_WEIGHTS if weights.project == "timm"]


def written_by_timm(name, path, **model_config):
    timm.models._hub.save_config_for_hf(timm_model(name), path, model_config=model_config)
    return path


@pytest.mark.parametrize("weights", OF_TIMM, ids=lambda weights: weights.variant)
def test_the_published_ones_as_timm_writes_them(weights, tmp_path):
    described = read_timm_config(written_by_timm(weights.variant, tmp_path / "config.json"), "a/b")
    assert described.architecture == weights.variant
    # The rows of the table are checked by this against timm's own.
    assert described.preprocessing == weights.preprocessing
    assert described.licence == weights.licence
    assert described.classes is None


def test_class_names(tmp_path):
    synsets = timm.data.ImageNetInfo().label_names()
    for names in (synsets, {str(index): name for index, name in enumerate(synsets)}):
        path = written_by_timm("botnet26t_256", tmp_path / "config.json", label_names=names)
        assert read_timm_config(path, "a/b").classes == imagenet.class_names()
    path = written_by_timm("botnet26t_256", tmp_path / "config.json", label_names=["cat", "dog"])
    assert read_timm_config(path, "a/b").classes == ("cat", "dog")


def test_what_fine_tuning_changes(tmp_path):
    path = written_by_timm(
        "botnet26t_256",
        tmp_path / "config.json",
        pretrained_cfg={"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "crop_pct": 1.0},
    )
    assert read_timm_config(path, "a/b").preprocessing == Preprocessing(
        size=(256, 256), crop=1.0, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)
    )


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        "{}",
        '{"architecture": "botnet26t_256"}',
        '{"architecture": "botnet26t_256", "pretrained_cfg": {"input_size": [3, 256]}}',
        '{"model_type": "vit", "pretrained_cfg": null}',
    ],
)
def test_other_configs(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="a/b describes no model of timm's") as told:
        read_timm_config(tmp_path / "config.json", "a/b")
    assert "\n" not in str(told.value)


def with_changes(path, **changes):
    values = json.loads(written_by_timm("botnet26t_256", path).read_text())
    values["pretrained_cfg"] |= changes.pop("pretrained_cfg", {})
    path.write_text(json.dumps(values | changes))
    return path


def test_the_size_that_the_model_was_built_for(tmp_path):
    for size, expected in ((320, (320, 320)), ([320, 192], (320, 192))):
        arguments = {"img_size": size, "drop_rate": 0.1, "global_pool": "avg", "in_chans": 3}
        path = with_changes(tmp_path / "config.json", model_args=arguments, num_classes=7)
        described = read_timm_config(path, "a/b")
        assert described.preprocessing.size == expected
        assert described.num_classes == 7


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_args": {"img_size": 256, "act_layer": "silu"}}, "act_layer = 'silu'"),
        ({"model_args": {"in_chans": 1}}, "in_chans = 1"),
        ({"model_args": {"global_pool": "max"}}, "global_pool = 'max'"),
        ({"pretrained_cfg": {"crop_mode": "squash"}}, "crop_mode = 'squash'"),
    ],
)
def test_what_changes_the_model_is_refused(tmp_path, changes, told):
    path = with_changes(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError, match=told):
        read_timm_config(path, "a/b")


def test_bad_values(tmp_path):
    path = written_by_timm("botnet26t_256", tmp_path / "config.json")
    values = json.loads(path.read_text())
    values["pretrained_cfg"]["crop_pct"] = -1
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="crop is -1"):
        read_timm_config(path, "a/b")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_timm_config(tmp_path / "missing.json", "a/b")
