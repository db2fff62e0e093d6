"""Pretrained directories: what is saved is loaded bit for bit, and nothing else is overwritten."""

import json
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from bottleneck_transformer_flax import Execution, load_pretrained, save_pretrained
from bottleneck_transformer_flax.checkpoints import pretrained as module
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from checkpoints.shared import NAMES, PREPROCESSING
from reference.variables import random_variables
from training.tiny import SIZE, SMALL, assert_same_bits, entries

EARLIER = Path(__file__).parents[1] / "goldens/pretrained"
FILES = ["classes.json", "config.json", "model.safetensors", "preprocessing.json"]


@pytest.fixture
def small(small_variables):
    return BoTNet(config=SMALL), small_variables, PREPROCESSING, NAMES


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path, small_variables, dtype):
    model = BoTNet(config=SMALL.replace(dtype=dtype, activation="gelu", bn_epsilon=1e-3))
    path = tmp_path / "deep" / "saved"
    assert save_pretrained(path, model, small_variables, PREPROCESSING, NAMES) == path
    execution = Execution(remat=True, frozen_through="c3")
    loaded = load_pretrained(str(path), execution=execution)
    assert (loaded.model.config, loaded.model.execution) == (model.config, execution)
    assert_same_bits(loaded.variables, small_variables)
    assert (loaded.preprocessing, loaded.classes) == (PREPROCESSING, NAMES)
    assert entries(path) == FILES
    assert entries(path.parent) == ["saved"]


@pytest.mark.parametrize("name", ["first", "execution_fields", "folded"])
def test_directories_that_earlier_commits_wrote_are_loaded(name):
    """``execution_fields`` has in its config what is no part of the architecture any more."""
    model, variables, preprocessing, classes = load_pretrained(EARLIER / name)
    assert preprocessing.size == (16, 24)
    assert classes == ("ant", "bee", "cat")
    pixels = np.linspace(-2, 2, 2 * 16 * 24 * 3, dtype=np.float32).reshape(2, 16, 24, 3)
    images = np.sin(7 * pixels * np.arange(1, 4, dtype=np.float32)).astype(np.float32)
    logits = jax.jit(model.apply)(variables, images)
    expected = json.loads((EARLIER / f"{name}.json").read_text())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_loading_compiles_no_program_for_each_shape(saved, caplog):
    jax.clear_caches()
    with jax.log_compiles():
        jax.block_until_ready(load_pretrained(saved).variables)
    # One program for each shape of a variable would be dozens; a random key's is one.
    assert sum(told.startswith("Finished XLA compilation") for told in caplog.messages) <= 2


def test_files_are_plain_utf_8(saved):
    assert entries(saved) == ["README.md", *FILES]
    assert (saved / "README.md").read_text(encoding="utf-8") == "# čard\n"
    classes = (saved / "classes.json").read_text(encoding="utf-8")
    assert "蜂" in classes
    assert json.loads(classes) == list(NAMES)
    preprocessing = json.loads((saved / "preprocessing.json").read_text(encoding="utf-8"))
    assert set(preprocessing) == {"size", "crop", "mean", "std", "interpolation"}


def test_another_size_resizes_tables_and_preprocessing_and_the_same_changes_nothing(
    saved, small_variables
):
    """A run's directory stands for the pretrained directory in it."""
    run, size = saved.parent / "run", (24, 20)
    run.mkdir()
    saved.rename(run / "pretrained")
    same = load_pretrained(run, image_size=SIZE)
    assert_same_bits(same.variables, small_variables)
    assert same.preprocessing == PREPROCESSING
    loaded = load_pretrained(run, image_size=size)
    assert loaded.preprocessing == PREPROCESSING.replace(size=size)
    expected = abstract_variables(loaded.model, size)
    assert jax.tree.map(np.shape, loaded.variables) == jax.tree.map(np.shape, expected)


def test_saving_replaces_a_pretrained_directory_and_its_card(saved):
    model = BoTNet(config=SMALL.replace(head_dim=3))
    variables = random_variables(abstract_variables(model, SIZE))
    save_pretrained(saved, model, variables, PREPROCESSING, ("a", "b", "c"))
    assert entries(saved) == FILES
    assert entries(saved.parent) == ["saved"]
    loaded = load_pretrained(saved)
    assert_same_bits(loaded.variables, variables)
    assert loaded.classes == ("a", "b", "c")


def test_saving_into_an_empty_folder_through_a_link_keeps_the_link(tmp_path, small):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save_pretrained(tmp_path / "link", *small, card="data: \udce9")
    assert (tmp_path / "link").is_symlink()
    assert entries(tmp_path / "real") == ["README.md", *FILES]
    assert entries(tmp_path) == ["link", "real"]
    # What is not UTF-8 in a card is escaped.
    assert "\\udce9" in (tmp_path / "real/README.md").read_text()


def test_nothing_else_is_overwritten(saved, small, tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text('{"model_type": "bert"}')
    (theirs / "README.md").write_text("theirs")
    (saved / "thesis.tex").write_text("three years")
    before = contents(saved), contents(theirs)
    for folder, told in (
        (saved, r"holds other files \(thesis\.tex\)"),
        (theirs, r"holds other files \(README.md, config.json\)"),
        (saved / "thesis.tex", "is a file"),
    ):
        with pytest.raises(CheckpointError, match=told):
            save_pretrained(folder, *small)
    assert (contents(saved), contents(theirs)) == before
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="current folder"):
        save_pretrained(".", *small)


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path, small):
    model, variables, preprocessing, _ = small
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(np.nan), variables)
    other = BoTNet(config=SMALL.replace(head_dim=3))
    for arguments, told in (
        ((model, variables, preprocessing, NAMES[:2]), "2 class names for 3 outputs"),
        ((model, variables, preprocessing, ("a", "b", "c\udce9")), "not UTF-8"),
        ((model, broken, preprocessing, NAMES), r"norm\.mean has values that are not finite"),
        ((other, variables, preprocessing, NAMES), r"key\.kernel is float32 .* instead of float32"),
    ):
        with pytest.raises(CheckpointError, match=told):
            save_pretrained(tmp_path / "new", *arguments)
    assert entries(tmp_path) == []


def test_a_failure_halfway_leaves_what_was_there(saved, small, monkeypatch):
    before = contents(saved)
    monkeypatch.setattr(module, "_write_json", Mock(side_effect=OSError("disk full")))
    for folder in (saved, saved.parent / "new"):
        with pytest.raises(OSError, match="disk full"):
            save_pretrained(folder, *small)
    assert contents(saved) == before
    assert entries(saved.parent) == ["saved"]
