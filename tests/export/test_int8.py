"""A quantised file keeps the accuracy of the trained model in the package, and is smaller."""

import numpy as np
import onnx
import pytest

from bottleneck_transformer_flax.conversion.loading import load_pretrained
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.data.sources.base import select
from bottleneck_transformer_flax.export import int8
from bottleneck_transformer_flax.export.int8 import write_int8
from bottleneck_transformer_flax.inference.onnx_model import OnnxModel


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    splits = load_splits("embedded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "_ROUNDS", 1)
        measured = write_int8(
            load_pretrained("botnet_tiny"),
            path,
            splits.train,
            splits.validation,
            num_workers=0,
            variant="botnet_tiny",
        )
    return path, measured


def test_it_is_as_accurate_and_smaller(quantised):
    _, (quantised, exact) = quantised
    assert exact.predictions.top1 == 0.891
    assert abs(quantised.predictions.top1 - exact.predictions.top1) <= 0.005
    assert quantised.predictions.count == exact.predictions.count == 1000
    assert quantised.size_bytes < 0.4 * exact.size_bytes
    for measured in (quantised, exact):
        assert measured.images_per_second.keys() == {1, 8}
        assert min(measured.images_per_second.values()) > 0


def test_what_cannot_be_quantised_well_stays_in_float32(quantised):
    graph = onnx.load(quantised[0]).graph
    made = {name: node for node in graph.node for name in node.output}

    def is_quantised(node):
        makers = [made.get(name) for name in node.input[:2]]
        return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)

    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert [is_quantised(node) for node in convolutions[1:]] == [True] * (len(convolutions) - 1)
    assert not is_quantised(convolutions[0])
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 2  # The block's, and that of the classes.
    for node in softmaxes:
        readers = [reader.op_type for reader in graph.node if node.output[0] in reader.input]
        assert "QuantizeLinear" not in readers
    # The keys, the relative embeddings of rows and of columns, and the values.
    products = [node for node in graph.node if node.op_type in ("MatMul", "FusedMatMul")]
    assert [is_quantised(node) for node in products] == [False] * 4


def test_the_file_says_what_it_is_and_predicts(quantised):
    model = OnnxModel(quantised[0])
    assert model.metadata.variant == "botnet_tiny"
    source = select(load_splits("embedded").validation, np.arange(3))
    images = np.stack([np.asarray(source.open(index).decode()) for index in range(3)])
    scores = model.score(images, source.labels)
    assert scores.probabilities.shape == (3, 5)
