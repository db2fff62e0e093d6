"""What can be loaded as a model, and what is told of anything else."""

import numpy as np
import onnx
import pytest

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.export.onnx import write_onnx
from bottleneck_transformer_flax.inference.models import load_model
from bottleneck_transformer_flax.inference.predictor import Predictor
from bottleneck_transformer_flax.preprocessing import Preprocessing
from reference.small_models import SMALL_MODELS, small_size, small_variables

NAME = "botnet_tiny"
PRETRAINED = Pretrained(
    SMALL_MODELS[NAME],
    small_variables(NAME),
    Preprocessing(size=small_size(NAME), temperature=2.0),
    tuple("abcde"),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    write_onnx(PRETRAINED, path)
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", None])
def test_an_exported_file_predicts_what_the_model_does(exported, engine):
    random = np.random.default_rng(1)
    images = [random.integers(256, size=(40, 50, 3), dtype=np.uint8) for _ in range(5)]
    predictor = Predictor(exported, batch_size=2, top_k=3, engine=engine)
    found = predictor([*images[:2], b"", *images[2:]])
    assert found.pop(2).error is not None
    for one, other in zip(found, Predictor(PRETRAINED, top_k=3)(images), strict=True):
        assert [name for name, _ in one.ranking] == [name for name, _ in other.ranking]
        probabilities = [[value for _, value in each.ranking] for each in (one, other)]
        np.testing.assert_allclose(*probabilities, rtol=1e-3)


def test_a_size_or_an_engine_that_does_not_fit_is_told(exported):
    height, width = small_size(NAME)
    with pytest.raises(ConfigError, match=f"is for {height} × {width} pixels; export the model"):
        load_model(exported, image_size=(64, 64))
    assert load_model(exported, image_size=(height, width)).classes == tuple("abcde")
    with pytest.raises(ConfigError, match=r"engine is 'jax', which does not run .*model.onnx"):
        load_model(exported, engine="jax")
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(ConfigError, match=f"engine is '{engine}', which does not run botnet_t"):
            load_model("botnet_tiny", engine=engine)
    assert load_model(PRETRAINED, engine="jax").preprocessing.temperature == 2
    with pytest.raises(ConfigError, match="gives no features; export the model again with --with"):
        load_model(exported).features(np.zeros((1, height, width, 3), np.uint8))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_of_another_origin_or_none_is_told(exported, tmp_path, engine):
    other = onnx.load(exported)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match="does not say how images become its input"):
        load_model(tmp_path / "other.onnx", engine=engine)
    onnx.helper.set_model_props(other, {"bottleneck-transformer-flax": '{"classes": ["a"]}'})
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match=r"other.onnx: its metadata cannot be read"):
        load_model(tmp_path / "other.onnx", engine=engine)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(CheckpointError, match=r"text.onnx cannot be loaded as ONNX"):
        load_model(tmp_path / "text.onnx", engine=engine)
    with pytest.raises(CheckpointError, match=r"nowhere.onnx does not exist"):
        load_model(tmp_path / "nowhere.onnx", engine=engine)
