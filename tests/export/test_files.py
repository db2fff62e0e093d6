"""Exported files compute what ``apply`` does, in every runtime, and say what they are."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from jax.export import deserialize

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.errors import ExportError
from bottleneck_transformer_flax.export import onnx as onnx_export
from bottleneck_transformer_flax.export import parity
from bottleneck_transformer_flax.export.functions import Outputs, exported_function
from bottleneck_transformer_flax.export.onnx import OPSET, write_onnx
from bottleneck_transformer_flax.export.stablehlo import write_stablehlo
from bottleneck_transformer_flax.export.triton import write_triton
from bottleneck_transformer_flax.inference.onnx_model import OnnxModel
from bottleneck_transformer_flax.preprocessing import Preprocessing
from reference.small_models import NAMES, SMALL_MODELS, all_outputs, small_size, small_variables

CLASSES = ("ant", "bee", "straße", "дом", 'a "b"\nc')


def pretrained_of(name):
    preprocessing = Preprocessing(
        size=small_size(name), mean=(0.1, 0.5, 0.3), std=(0.2, 0.5, 0.3), temperature=1.7
    )
    return Pretrained(SMALL_MODELS[name], small_variables(name), preprocessing, CLASSES)


def images_of(name, count, seed=11):
    random = np.random.default_rng(seed)
    return random.integers(256, size=(count, *small_size(name), 3), dtype=np.uint8)


def expected_of(pretrained, images):
    """Probabilities, features and attention weights by the model itself, unfolded."""
    inputs = pretrained.preprocessing.normalize(images)
    outputs = all_outputs(pretrained.model)(pretrained.variables, inputs)
    maps = {
        f"attention_{key.replace('/', '_')}": value
        for key, value in outputs.attention_maps.items()
        if not key.endswith("_logits")
    }
    probabilities = jax.nn.softmax(outputs.logits / 1.7)
    return {"probabilities": probabilities, "features": outputs.pooled_features, **maps}


@pytest.mark.parametrize("name", NAMES)
def test_an_onnx_file_of_every_kind_of_model_gives_what_the_model_does(name, tmp_path):
    pretrained, path = pretrained_of(name), tmp_path / "model.onnx"
    found = write_onnx(pretrained, path, outputs=Outputs(features=True, attention=True))
    assert found.batches == 6
    assert max(found.differences.values()) <= 1e-4
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert {entry.version for entry in graph.opset_import if not entry.domain} == {OPSET}
    assert graph.ir_version <= 10
    # onnxruntime takes several times as long for an Einsum as for the MatMul that it stands for.
    assert "Einsum" not in {node.op_type for node in graph.graph.node}
    used = {name for node in graph.graph.node for name in node.input}
    assert {one.name for one in graph.graph.initializer} <= used
    images = images_of(name, 3)
    session = onnx_export.new_session(path)
    names = [one.name for one in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"images": images}), strict=True))
    expected = expected_of(pretrained, images)
    assert list(outputs) == list(expected) == list(found.differences)
    for key, values in expected.items():
        scale = max(1, np.abs(values).max())
        np.testing.assert_allclose(outputs[key], values, rtol=0, atol=1e-4 * scale)


def test_no_runtime_warns_of_a_file(tmp_path, capfd):
    path = tmp_path / "model.onnx"
    write_onnx(pretrained_of("botnet_t3"), path)
    capfd.readouterr()
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    OnnxModel(path, engine="openvino")
    assert capfd.readouterr() == ("", "")


def test_raw_takes_normalised_images_and_gives_logits(tmp_path):
    name = "botnet_tiny"
    pretrained, path = pretrained_of(name), tmp_path / "model.onnx"
    write_onnx(pretrained, path, outputs=Outputs(raw=True))
    inputs = pretrained.preprocessing.normalize(images_of(name, 2))
    (logits,) = onnx_export.new_session(path).run(["logits"], {"images": inputs})
    expected = all_outputs(pretrained.model)(pretrained.variables, inputs).logits
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("raw", [False, True])
def test_a_file_is_a_model_with_its_names_and_preprocessing(engine, raw, tmp_path):
    name = "botnet_tiny"
    pretrained, path = pretrained_of(name), tmp_path / "model.onnx"
    described = {"variant": "botnet_tiny", "origin": "runs/1", "licence": "apache-2.0"}
    write_onnx(pretrained, path, outputs=Outputs(raw=raw, features=True), **described)
    model = OnnxModel(path, top_k=3, engine=engine)
    assert (model.classes, model.preprocessing) == (CLASSES, pretrained.preprocessing)
    assert {key: getattr(model.metadata, key) for key in described} == described
    images, labels = images_of(name, 4), np.array([2, 0, -1, 4])
    scores, expected = model.score(images, labels), expected_of(pretrained, images)
    probabilities = np.asarray(expected["probabilities"], np.float64)
    order = np.argsort(-probabilities, axis=1)[:, :3]
    np.testing.assert_array_equal(scores.classes, order)
    top = np.take_along_axis(probabilities, order, axis=1)
    np.testing.assert_allclose(scores.probabilities, top, rtol=1e-4)
    np.testing.assert_allclose(model.features(images), expected["features"], atol=1e-4)
    # Losses are of the logits, without the temperature.
    powers = probabilities**1.7
    losses = -np.log(powers / powers.sum(axis=1, keepdims=True))
    for row in (0, 1, 3):
        assert scores.losses[row] == pytest.approx(losses[row, labels[row]], rel=1e-3)
    np.testing.assert_array_equal(scores.labels, labels)


def test_a_file_that_would_differ_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"what was there")
    pretrained = pretrained_of("botnet_tiny")

    def another(function):
        other = function._replace(call=lambda images: [1.01 * x for x in function.call(images)])
        return traced(other)

    traced = onnx_export._traced
    monkeypatch.setattr(onnx_export, "_traced", another)
    with pytest.raises(ExportError, match=r"the exported probabilities differ by 0\.0|e-0[23]"):
        write_onnx(pretrained, path)
    assert path.read_bytes() == b"what was there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("wrong", [np.nan, 1.1])
def test_parity_is_of_every_output_and_batch(wrong):
    pretrained = pretrained_of("botnet_tiny")
    function = exported_function(pretrained, Outputs(features=True))
    exact = jax.jit(function.call)
    sizes = []

    def run(images):
        sizes.append(len(images))
        return [np.asarray(output) for output in exact(images)]

    found = parity.check_parity(pretrained, function, run)
    assert (sizes, found.batches) == ([1, 1, 2, 2, 5, 5], 6)
    assert found.differences == {"probabilities": 0, "features": 0}

    def last_differs(images):
        probabilities, features = (np.array(output) for output in exact(images))
        features[-1, -1] = wrong * 10 if len(images) == 5 else features[-1, -1]
        return [probabilities, features]

    with pytest.raises(ExportError, match="the exported features differ by"):
        parity.check_parity(pretrained, function, last_differs)


def test_a_stablehlo_file_needs_only_jax(tmp_path):
    name = "botnet_tiny"
    pretrained, path = pretrained_of(name), tmp_path / "model.stablehlo"
    found = write_stablehlo(pretrained, path, outputs=Outputs(features=True))
    assert max(found.differences.values()) <= 1e-4
    exported = deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    images = images_of(name, 3)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['bottleneck_transformer_flax', 'flax'])\n"
        "import jax, numpy as np\n"
        "from jax.export import deserialize\n"
        "call = deserialize(bytearray(open('model.stablehlo', 'rb').read())).call\n"
        "np.savez('found.npz', **call(np.load('images.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    expected = expected_of(pretrained, images)
    with np.load(tmp_path / "found.npz") as outputs:
        assert set(outputs) == {"probabilities", "features"}
        for key in outputs:
            np.testing.assert_allclose(outputs[key], expected[key], rtol=0, atol=1e-4)


def test_a_triton_repository_holds_the_model_its_configuration_and_its_labels(tmp_path):
    name = "botnet_tiny"
    pretrained, repository = pretrained_of(name), tmp_path / "models"
    (repository / "other").mkdir(parents=True)
    for _ in range(2):  # The second replaces the first.
        write_triton(pretrained, repository, name="tiny", outputs=Outputs(features=True))
    assert sorted(entry.name for entry in repository.iterdir()) == ["other", "tiny"]
    assert OnnxModel(repository / "tiny/1/model.onnx").classes == CLASSES
    labels = (repository / "tiny/labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels == [*CLASSES[:4], 'a "b"\\nc']
    config = (repository / "tiny/config.pbtxt").read_text()
    height, width = small_size(name)
    for part in (
        'name: "tiny"',
        'backend: "onnxruntime"',
        f"dims: [{height}, {width}, 3]",
        "data_type: TYPE_UINT8",
        'name: "probabilities"',
        "dims: [5]",
        'label_filename: "labels.txt"',
        'name: "features"',
        "dynamic_batching {",
    ):
        assert part in config, part
    with pytest.raises(ExportError, match="other is no model of Triton's"):
        write_triton(pretrained, repository, name="other")


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ExportError, match=r"needs jax2onnx; .*bottleneck-transformer-flax\[export"):
        write_onnx(pretrained_of("botnet_tiny"), tmp_path / "model.onnx")


def test_what_an_exported_function_computes_has_the_shapes_that_it_says():
    function = exported_function(pretrained_of("botnet_t3"), Outputs(attention=True, features=True))
    found = jax.eval_shape(
        function.call, jax.ShapeDtypeStruct((2, *function.image_size, 3), jnp.uint8)
    )
    assert [output.shape[1:] for output in found] == function.output_shapes()
    assert function.names[:2] == ("probabilities", "features")
    assert function.names[2:] == ("attention_c5_block_1", "attention_c5_block_2")
