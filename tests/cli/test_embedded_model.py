"""The trained model in the package: small, loadable, and as good as its card says."""

import re
from importlib import resources

import pytest

from bottleneck_transformer_flax.checkpoints.pretrained_files import find_pretrained
from bottleneck_transformer_flax.conversion.public_weights import PUBLIC_WEIGHTS
from training.tiny import entries


def test_it_ships_with_the_package_and_is_small():
    folder = find_pretrained("botnet_tiny")
    assert folder.is_relative_to(str(resources.files("bottleneck_transformer_flax")))
    names = ["README.md", "classes.json", "config.json", "model.safetensors", "preprocessing.json"]
    assert entries(folder) == names
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3_000_000


def test_its_card_names_the_accuracy_that_evaluate_measures(call, tmp_path, monkeypatch):
    """Where there is no run, it is what commands take."""
    monkeypatch.chdir(tmp_path)
    card = (find_pretrained("botnet_tiny") / "README.md").read_text(encoding="utf-8")
    top1, top5, loss = (
        float(re.search(rf"\| {name} \| ([0-9.e-]+) \|", card).group(1))
        for name in ("top-1", "top-5", "loss")
    )
    result = call("evaluate", "--json").json()
    assert (result["checkpoint"], result["count"]) == ("botnet_tiny", 1000)
    assert (result["top1"], result["top5"]) == (top1, top5)
    assert top1 >= 0.88
    (listed,) = (row for row in PUBLIC_WEIGHTS if row.name == "botnet_tiny")
    assert (listed.top1, listed.top5) == (100 * top1, 100 * top5)
    # The loss is a sum of rounded figures: other processors may round the last digits otherwise.
    assert result["loss"] == pytest.approx(loss, rel=1e-4)
