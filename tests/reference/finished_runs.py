"""A finished run on disk that nothing was trained for: random weights, random predictions."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bottleneck_transformer_flax.checkpoints.pretrained import save_pretrained
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.evaluation.predictions import Predictions, digest
from bottleneck_transformer_flax.figures.confusion import draw_confusion_matrix
from bottleneck_transformer_flax.figures.reliability import draw_reliability_diagram
from bottleneck_transformer_flax.figures.style import save_png
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.run_images import load_images, record_images
from reference.variables import random_variables
from training.tiny import CLASSES, CROPPED, SIZE, SMALL, write_data


def random_predictions(source, seed=0):
    random = np.random.default_rng(seed)
    count = len(source)
    probabilities = np.sort(random.dirichlet(np.ones(3), count), axis=1)[:, ::-1]
    return Predictions(
        num_classes=3,
        positions=np.arange(count),
        labels=source.labels,
        top_classes=np.argsort(random.random((count, 3)), axis=1),
        top_probabilities=probabilities,
        losses=random.random(count),
        source_digest=digest(source),
    )


def copy_work(folder, copy):
    """Copy a folder with data and runs, which then know the copied data only."""
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    for record in copy.glob("runs/*/run.json"):
        record.write_text(record.read_text().replace(f"{folder}/", f"{copy}/"))
    return copy


@pytest.fixture
def finished_run(finished_once, tmp_path, monkeypatch):
    """``runs/one`` in the working directory, trained on ``data/train`` and ``data/val``."""
    monkeypatch.chdir(tmp_path)
    copy_work(finished_once, tmp_path)
    return Path("runs/one")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder / "data")
    run, config = RunDirectory(folder / "runs/one"), RunConfig(data="data", epochs=2)
    with contextlib.chdir(folder):
        run.create(config, record_images(run, config, load_images(config)))
    variables = random_variables(abstract_variables(BoTNet(SMALL), SIZE), seed=3)
    save_pretrained(run.pretrained, BoTNet(SMALL), variables, CROPPED, CLASSES, card="# Insects\n")
    predictions = random_predictions(load_splits(str(folder / "data")).validation)
    predictions.save(run.path / "predictions.npz")
    evaluation = predictions.to_json(CLASSES) | {"split": "validation", "origin": "val/"}
    evaluation |= {"temperature": 1.25, "uncalibrated_ece": 0.5}
    run.evaluation.write_text(json.dumps(evaluation))
    save_png(draw_confusion_matrix(predictions.confusion, CLASSES), run.confusion)
    bins = predictions.reliability
    diagram = draw_reliability_diagram(bins.counts, bins.accuracies, ece=bins.ece)
    save_png(diagram, run.reliability)
    row = {"train_loss": 1.0, "train_accuracy": 0.5, "learning_rate": 0.1}
    row |= {"validation_loss": 1.0, "validation_accuracy": 0.5, "validation_origin": "val/"}
    run.write_metrics([row | {"epoch": epoch, "step": 2 * epoch} for epoch in (1, 2)])
    return folder
