"""timm's config.json, as timm itself writes it, says which model a repository holds."""

import json

import pytest

from bottleneck_transformer_flax.conversion.public_weights import PUBLIC_WEIGHTS
from bottleneck_transformer_flax.conversion.timm import read_timm_config
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.preprocessing import Preprocessing
from reference.timm_networks import timm, timm_model

# JSON has lists where the records' types say tuples.
pytestmark = pytest.mark.usefixtures("as_users_have_it")
TIMM_WEIGHTS = [weights for weights in PUBLIC_WEIGHTS if weights.project == "timm"]


def read(path, name="botnet26t_256", model_args=None, **model_config):
    timm.models._hub.save_config_for_hf(timm_model(name), path, model_config=model_config)
    values = json.loads(path.read_text()) | {"model_args": model_args or {}}
    path.write_text(json.dumps(values))
    return read_timm_config(path, "a/b")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "config.json"


@pytest.mark.parametrize("weights", TIMM_WEIGHTS, ids=lambda weights: weights.variant)
def test_the_published_weights_are_described_as_in_our_table(weights, path):
    described = read(path, weights.variant)
    assert described.architecture == weights.variant
    assert described.preprocessing == weights.preprocessing
    assert described.licence == weights.licence
    assert described.classes is None


def test_class_names(path):
    synsets = timm.data.ImageNetInfo().label_names()
    for names in (synsets, {str(index): name for index, name in enumerate(synsets)}):
        assert read(path, label_names=names).classes == imagenet.class_names()
    assert read(path, label_names=["cat", "dog"]).classes == ("cat", "dog")


def test_another_preprocessing_and_the_size_that_the_model_was_built_for(path):
    changes = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "crop_pct": 1.0}
    for size, expected in ((None, (256, 256)), (320, (320, 320)), ([320, 192], (320, 192))):
        arguments = {"img_size": size, "drop_rate": 0.1, "global_pool": "avg", "in_chans": 3}
        described = read(path, pretrained_cfg=changes, model_args=arguments)
        assert described.preprocessing == Preprocessing(
            size=expected, crop=1.0, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)
        )


def test_other_configs_are_refused(path):
    for content in (
        "not json",
        "[]",
        '{"architecture": "botnet26t_256", "pretrained_cfg": {"input_size": [3, 256]}}',
        '{"model_type": "vit", "pretrained_cfg": null}',
    ):
        path.write_text(content)
        with pytest.raises(CheckpointError, match="a/b does not describe one of timm's") as told:
            read_timm_config(path, "a/b")
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_args": {"img_size": 256, "act_layer": "silu"}}, "support: act_layer = 'silu'"),
        ({"model_args": {"in_chans": 1}}, "support: in_chans = 1"),
        ({"model_args": {"global_pool": "max"}}, "support: global_pool = 'max'"),
        ({"pretrained_cfg": {"crop_mode": "squash"}}, "support: crop_mode = 'squash'"),
        ({"pretrained_cfg": {"crop_pct": -1}}, "crop is -1"),
    ],
)
def test_what_changes_the_model_or_makes_no_sense_is_refused(path, changes, told):
    with pytest.raises(CheckpointError, match=told):
        read(path, **changes)
