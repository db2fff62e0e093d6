"""Pretrained directories: what is written, and that the very same comes back."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bottleneck_transformer_flax import load_pretrained, save_pretrained
from bottleneck_transformer_flax.checkpoints import pretrained as module
from bottleneck_transformer_flax.errors import BoTNetError, CheckpointError, ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from reference.variables import random_variables
from training.tiny import CROPPED, SIZE, SMALL, assert_same_bits, entries

NAMES = ("fourmi", "蜂", 'čat "quoted" \\ 🐈')
FILES = ["classes.json", "config.json", "model.safetensors", "preprocessing.json"]
PREPROCESSING = CROPPED.replace(crop=0.8, mean=(0.1, 0.2, 0.3), interpolation="lanczos")


def small_model(**changes):
    model = BoTNet(config=SMALL.replace(**changes))
    return model, random_variables(abstract_variables(model, SIZE))


@pytest.fixture
def saved(tmp_path):
    model, variables = small_model()
    return save_pretrained(tmp_path / "saved", model, variables, PREPROCESSING, NAMES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_saved_comes_back_bit_for_bit(tmp_path, dtype):
    model, variables = small_model(dtype=dtype, activation="gelu", bn_epsilon=1e-3)
    path = save_pretrained(tmp_path / "deep" / "saved", model, variables, PREPROCESSING, NAMES)
    assert path == tmp_path / "deep" / "saved"
    back = load_pretrained(str(path))
    assert back.model.config == model.config
    expected = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    assert back.model.config.dtype == expected
    assert_same_bits(back.variables, variables)
    assert back.preprocessing == PREPROCESSING
    assert back.classes == NAMES


def test_loading_compiles_next_to_nothing(saved):
    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(load_pretrained(saved).variables)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    # A program for every shape of a variable would be dozens; a random key's is one.
    assert len(compiled) <= 2


def test_files_are_named_as_promised_and_plain(saved):
    assert entries(saved) == FILES
    for name in FILES[:2] + FILES[3:]:
        json.loads((saved / name).read_text(encoding="utf-8"))
    assert json.loads((saved / "classes.json").read_text(encoding="utf-8")) == list(NAMES)
    assert "蜂" in (saved / "classes.json").read_text(encoding="utf-8")
    preprocessing = json.loads((saved / "preprocessing.json").read_text())
    assert set(preprocessing) == {"size", "crop", "mean", "std", "interpolation"}
    assert entries(saved.parent) == ["saved"]


def test_the_card_is_written(tmp_path):
    model, variables = small_model()
    path = save_pretrained(tmp_path / "x", model, variables, CROPPED, NAMES, card="# čard\n")
    assert (path / "README.md").read_text(encoding="utf-8") == "# čard\n"
    load_pretrained(path)


def test_a_run_s_directory_stands_for_its_pretrained_folder(tmp_path):
    model, variables = small_model()
    save_pretrained(tmp_path / "run" / "pretrained", model, variables, CROPPED, NAMES)
    assert_same_bits(load_pretrained(tmp_path / "run").variables, variables)


def test_another_size_resizes_tables_and_preprocessing_and_the_model_runs(saved):
    size = (24, 20)
    before, after = load_pretrained(saved), load_pretrained(saved, image_size=size)
    assert after.preprocessing == PREPROCESSING.replace(size=size)
    expected = abstract_variables(after.model, size)
    assert jax.tree.map(np.shape, after.variables) == jax.tree.map(lambda x: x.shape, expected)
    table = after.variables["params"]["c5"]["block_1"]
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(table))
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    logits = jax.jit(after.model.apply)(after.variables, images)
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()
    with pytest.raises(ConfigError):
        jax.eval_shape(before.model.apply, before.variables, images)


def test_the_same_size_changes_nothing(saved):
    before, after = load_pretrained(saved), load_pretrained(saved, image_size=SIZE)
    assert_same_bits(before.variables, after.variables)
    assert (before.preprocessing, before.classes) == (after.preprocessing, after.classes)


def test_a_size_too_small_for_the_model_is_refused(saved):
    with pytest.raises(ConfigError, match="3 × 16"):
        load_pretrained(saved, image_size=(3, 16))


def test_saving_again_replaces(saved):
    model, variables = small_model(head_dim=3)
    (saved / "README.md").write_text("old card")
    save_pretrained(saved, model, variables, CROPPED, ("a", "b", "c"))
    assert entries(saved) == FILES
    back = load_pretrained(saved)
    assert_same_bits(back.variables, variables)
    assert back.classes == ("a", "b", "c")
    assert entries(saved.parent) == ["saved"]


def test_saving_into_an_empty_folder(tmp_path):
    model, variables = small_model()
    (tmp_path / "empty").mkdir()
    save_pretrained(tmp_path / "empty", model, variables, CROPPED, NAMES)
    assert entries(tmp_path / "empty") == FILES


def test_a_foreign_folder_and_a_file_are_left_alone(saved):
    model, variables = small_model()
    (saved / "thesis.tex").write_text("three years")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(CheckpointError, match=r"thesis\.tex"):
        save_pretrained(saved, model, variables, CROPPED, NAMES)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    with pytest.raises(CheckpointError, match="is a file"):
        save_pretrained(saved / "thesis.tex", model, variables, CROPPED, NAMES)
    assert (saved / "thesis.tex").read_text() == "three years"
    assert entries(saved.parent) == ["saved"]


def test_wrong_number_of_names_writes_nothing(tmp_path):
    model, variables = small_model()
    with pytest.raises(CheckpointError, match="2 class names for 3 outputs"):
        save_pretrained(tmp_path / "x", model, variables, CROPPED, NAMES[:2])
    assert entries(tmp_path) == []


@pytest.mark.parametrize("failing", ["save", "_write_json"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_halfway_leaves_the_old_directory_whole(saved, monkeypatch, failing, error):
    model, variables = small_model(head_dim=3)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    original = getattr(module, failing)

    def fail(*arguments, **options):
        original(*arguments, **options)
        raise error

    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(type(error)):
        save_pretrained(saved, model, variables, CROPPED, NAMES)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert entries(saved.parent) == ["saved"]
    with pytest.raises(type(error)):
        save_pretrained(saved.parent / "new", model, variables, CROPPED, NAMES)
    assert entries(saved.parent) == ["saved"]


def test_variables_of_another_model_are_not_saved_as_this_one_s(tmp_path):
    model, _ = small_model()
    _, others = small_model(head_dim=3)
    try:
        path = save_pretrained(tmp_path / "x", model, others, CROPPED, NAMES)
    except BoTNetError:
        assert entries(tmp_path) == []
    else:
        with pytest.raises(CheckpointError):
            load_pretrained(path)


def test_another_project_s_folder_of_the_same_file_names_is_left_alone(tmp_path):
    for name, text in (("config.json", '{"model_type": "bert"}'), ("README.md", "theirs")):
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=r"holds other files \(README.md, config.json\)"):
        save_pretrained(tmp_path, *small_model(), PREPROCESSING, NAMES)
    assert (tmp_path / "README.md").read_text() == "theirs"


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save_pretrained(tmp_path / "link", *small_model(), PREPROCESSING, NAMES)
    assert (tmp_path / "link").is_symlink()
    assert entries(tmp_path / "real") == FILES
    assert entries(tmp_path) == ["link", "real"]


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="current folder"):
        save_pretrained(".", *small_model(), PREPROCESSING, NAMES)


def test_values_that_are_not_finite_are_neither_saved_nor_loaded(saved):
    model, variables = small_model()
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(np.nan), variables)
    with pytest.raises(CheckpointError, match=r"head\.bias has values that are not finite"):
        save_pretrained(saved.parent / "new", model, broken, PREPROCESSING, NAMES)
    arrays = load_file(saved / "model.safetensors")
    arrays["params.head.bias"][0] = np.inf
    save_file(arrays, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.bias has values that are not finite"):
        load_pretrained(saved)


def test_names_that_are_no_text_and_a_card_that_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="not UTF-8"):
        save_pretrained(tmp_path / "a", *small_model(), PREPROCESSING, ("a", "b", "c\udce9"))
    save_pretrained(tmp_path / "b", *small_model(), PREPROCESSING, NAMES, card="data: \udce9")
    assert "\\udce9" in (tmp_path / "b/README.md").read_text()
