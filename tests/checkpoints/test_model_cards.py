"""A card's metadata is read back by the hub's own library as it was written."""

import pytest
from huggingface_hub import ModelCard

from bottleneck_transformer_flax.checkpoints.model_cards import card_metadata, licence_of_card

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
    card = ModelCard(text + "\n# Title\n")
    assert card.text == "\n# Title\n"
    return card.data


def test_everything_is_read_back():
    data = read(
        model_name="botnet_tiny",
        dataset_name="Fashion-MNIST, a subset",
        metrics={"top1": 0.891, "top5": 0.997},
        licence="apache-2.0",
        base_model="lab/ant@v1",
    )
    assert [(row.metric_type, row.metric_name, row.metric_value) for row in data.eval_results] == [
        ("accuracy", "Top-1 accuracy", 0.891),
        ("top_5_accuracy", "Top-5 accuracy", 0.997),
    ]
    first, _ = data.eval_results
    assert first.task_type == data.pipeline_tag == "image-classification"
    assert first.dataset_name == "Fashion-MNIST, a subset"
    assert first.dataset_type == "fashion-mnist-a-subset"
    found = (data.model_name, data.license, data.base_model)
    assert found == ("botnet_tiny", "apache-2.0", "lab/ant")


def test_what_is_not_known_is_left_out():
    """A base model that is not on the hub would make the hub refuse the card."""
    bare = read().to_dict()
    assert bare.keys() == {"library_name", "pipeline_tag"}
    assert read(base_model="botnet_tiny", metrics={"top1": float("nan")}).to_dict() == bare
    (result,) = read(metrics={"top1": float("inf"), "top5": 0.5}).eval_results
    assert result.metric_value == 0.5


@pytest.mark.parametrize("text", AWKWARD)
def test_every_text_is_read_back(text):
    data = read(model_name=text, dataset_name=text, licence=text, metrics={text: 0.5})
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_name, result.metric_type) == (text, text, text)
    assert (data.model_name, data.license) == (text, text)
    assert result.dataset_type


def test_every_value_is_read_back_to_the_last_bit():
    values = {"top1": 0.1 + 0.2, "top5": 1e-5, "f1": 1 / 3, "recall": 1e-300, "zero": 0.0, "one": 1}
    read_back = [result.metric_value for result in read(metrics=values).eval_results]
    assert read_back == list(values.values())
    assert {type(value) for value in read_back} == {float}


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (b"---\nlicense: mit\n---\n# A model\n", "mit"),
        (b"# A model\n", None),
        (b"---\nlicense: [\n---\n# A model\n", None),
        (b"---\nlicense: [mit]\n---\n# A model\n", None),
        (None, None),
    ],
)
def test_the_licence_of_a_card(tmp_path, text, licence):
    if text is not None:
        (tmp_path / "README.md").write_bytes(text)
    assert licence_of_card(tmp_path) == licence
