"""A data set by its name or folder: what is trained on, and what is held out."""

import subprocess
import sys

import pytest

from bottleneck_transformer_flax.data.datasets import load_folder_all, load_splits
from bottleneck_transformer_flax.errors import ConfigError, DataError
from data.image_files import colour_folder


def test_load_folder_all_takes_a_single_class(tmp_path):
    assert len(load_folder_all(colour_folder(tmp_path, "x"))) == 3


def test_load_splits_of_a_folder(tmp_path):
    colour_folder(tmp_path, "x", "y", count=10)
    splits = load_splits(str(tmp_path), validation_fraction=0.2, split_seed=3)
    assert splits.description == f"16 training and 4 test images, 2 classes ({tmp_path})"
    assert splits.validation.labels.tolist() == [0, 0, 1, 1]
    trained_on = {splits.train.describe(i) for i in range(16)}
    tested_on = {splits.validation.describe(i) for i in range(4)}
    assert len(trained_on | tested_on) == 20


def test_load_splits_checks_its_arguments(tmp_path):
    with pytest.raises(ConfigError, match="validation_fraction"):
        load_splits("embedded", validation_fraction=0.0)
    with pytest.raises(DataError, match="no such folder"):
        load_splits(str(tmp_path / "nowhere"))


def test_import_needs_neither_jax_nor_grain():
    program = (
        "import sys, bottleneck_transformer_flax.data.datasets;"
        "print({'jax', 'grain', 'flax'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
