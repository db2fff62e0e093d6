"""The trained model in the package: small, loadable, and as good as its card says."""

import json
import re
from importlib import resources

import pytest
from PIL import Image

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.checkpoints.pretrained_files import find_pretrained
from bottleneck_transformer_flax.conversion.public_weights import PUBLIC_WEIGHTS
from training.tiny import colour_images

MOST_BYTES = 3_000_000


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder without runs, so that nothing but the package's own model can be meant."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_ships_with_the_package_and_is_small():
    folder = find_pretrained("botnet_tiny")
    package = resources.files("bottleneck_transformer_flax")
    assert str(folder).startswith(str(package))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "README.md",
        "classes.json",
        "config.json",
        "model.safetensors",
        "preprocessing.json",
    }
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_it_loads(elsewhere):
    model, variables, preprocessing, classes = load_pretrained("botnet_tiny")
    assert preprocessing.size == (28, 28)
    assert len(classes) == model.config.num_classes == 10
    assert "Ankle boot" in classes
    assert set(variables) == {"params", "batch_stats"}


def test_its_card_names_the_accuracy_that_evaluate_measures(call, elsewhere):
    card = (find_pretrained("botnet_tiny") / "README.md").read_text(encoding="utf-8")
    top1, top5 = (
        float(re.search(rf"\| {name} \| ([0-9.]+) \|", card).group(1))
        for name in ("top-1", "top-5")
    )
    called = call("evaluate", "--json")
    assert called.code == 0, called
    result = called.json()
    assert result["checkpoint"] == "botnet_tiny"
    assert result["count"] == 1000
    assert (result["top1"], result["top5"]) == (top1, top5)
    assert top1 >= 0.88
    (listed,) = (row for row in PUBLIC_WEIGHTS if row.name == "botnet_tiny")
    assert (listed.top1, listed.top5) == (100 * top1, 100 * top5)
    # The loss is a sum of rounded figures: other processors may round the last digits otherwise.
    loss = float(re.search(r"\| loss \| ([0-9.e-]+) \|", card).group(1))
    assert result["loss"] == pytest.approx(loss, rel=1e-4)


def test_predict_uses_it_where_there_is_no_run(call, elsewhere):

    Image.fromarray(colour_images(1, size=(28, 28))[0]).save("a.png")
    called = call("predict", "a.png", "--json")
    assert called.code == 0, called
    assert len(json.loads(called.out)["predictions"]) == 5
