"""The metadata of a model card, read back as the hub's own library reads it."""

import pytest
from huggingface_hub import ModelCard

from bottleneck_transformer_flax.checkpoints.cards import card_metadata

AWKWARD = (
    "yes",
    "1.0",
    "null",
    "",
    "- a: b # c",
    'say "bee" \\ \\n',
    "two\nlines\r\n\ttab",
    "---\nlicense: mit\n---",
    "čat 🐈",
    "\x00\x1b\x7f\x85\xa0",
    "\u2028\u2029\ufeff\ufffe",
    "lone \udcff",
)


def read(**arguments):
    text = card_metadata(**{"model_name": "ant", "dataset_name": "Ants", "metrics": {}} | arguments)
    assert text.startswith("---\n")
    assert text.endswith("\n---\n")
    card = ModelCard(text + "\n# Title\n")
    assert card.text == "\n# Title\n"
    return card.data


def test_results_and_all_arrive():
    data = read(
        model_name="botnet_tiny",
        dataset_name="Fashion-MNIST, a subset",
        metrics={"top1": 0.891, "top5": 0.997},
        licence="apache-2.0",
        base_model="lab/ant@v1",
        tags=("jax", "botnet"),
    )
    first, second = data.eval_results
    assert (first.metric_type, first.metric_name) == ("accuracy", "Top-1 accuracy")
    assert (second.metric_type, second.metric_name) == ("top_5_accuracy", "Top-5 accuracy")
    assert (first.metric_value, second.metric_value) == (0.891, 0.997)
    for result in data.eval_results:
        assert result.task_type == "image-classification"
        assert result.dataset_name == "Fashion-MNIST, a subset"
        assert result.dataset_type == "fashion-mnist-a-subset"
    assert data.model_name == "botnet_tiny"
    assert data.license == "apache-2.0"
    assert data.library_name == "bottleneck-transformer-flax"
    assert data.pipeline_tag == "image-classification"
    assert data.base_model == "lab/ant"
    assert data.tags == ["jax", "botnet"]


def test_what_is_not_given_is_not_there():
    assert read().to_dict() == {
        "library_name": "bottleneck-transformer-flax",
        "pipeline_tag": "image-classification",
    }


def test_a_base_model_that_is_not_on_the_hub_is_left_out():
    assert read(base_model="botnet_tiny").base_model is None
    assert read(base_model="/home/ant/run").base_model is None


@pytest.mark.parametrize("text", AWKWARD)
def test_every_text_comes_back_as_it_was(text):
    data = read(model_name=text, dataset_name=text, licence=text, tags=[text], metrics={text: 0.5})
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_name, result.metric_type) == (text, text, text)
    assert (data.model_name, data.license, data.tags) == (text, text, [text])
    assert result.dataset_type


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1 + 0.2, 1e-5, 1 / 3, 1e-300])
def test_every_value_comes_back_to_the_last_bit(value):
    (result,) = read(metrics={"top1": value}).eval_results
    assert isinstance(result.metric_value, float)
    assert result.metric_value == value


def test_values_that_are_not_finite_are_left_out():
    (result,) = read(metrics={"top1": float("nan"), "top5": 0.5, "f1": float("inf")}).eval_results
    assert result.metric_value == 0.5
    assert read(metrics={"top1": float("nan")}).eval_results is None
