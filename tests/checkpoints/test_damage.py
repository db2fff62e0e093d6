"""Every way a pretrained directory can be damaged is told in one clear line."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bottleneck_transformer_flax import load_pretrained, save_pretrained
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from reference.variables import random_variables
from training.tiny import CLASSES, CROPPED, SIZE, SMALL

WEIGHTS = "model.safetensors"


@pytest.fixture
def saved(tmp_path):
    model = BoTNet(config=SMALL)
    variables = random_variables(abstract_variables(model, SIZE))
    return save_pretrained(tmp_path / "saved", model, variables, CROPPED, CLASSES)


def error_of(source):
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(source)
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


def change_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_missing_directory(tmp_path):
    message = error_of(tmp_path / "nowhere")
    assert "does not exist" in message
    assert "botnet_tiny" in message


def test_a_file_instead_of_a_directory(saved):
    assert "is a file" in error_of(saved / WEIGHTS)


def test_a_directory_that_is_none_of_ours(saved):
    (saved / "config.json").unlink()
    assert "config.json" in error_of(saved)


@pytest.mark.parametrize("name", [WEIGHTS, "preprocessing.json", "classes.json"])
def test_a_missing_file(saved, name):
    (saved / name).unlink()
    assert name in error_of(saved)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_weights_that_end_too_early(saved, size):
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[:size])
    message = error_of(saved)
    assert WEIGHTS in message
    assert "cannot be read" in message


def test_weights_that_are_something_else(saved):
    (saved / WEIGHTS).write_bytes(b"<html>404 Not Found</html>" * 99)
    assert WEIGHTS in error_of(saved)


@pytest.mark.parametrize("name", ["config.json", "preprocessing.json", "classes.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"7", b'"text"', b"null"])
def test_json_garbage(saved, name, content):
    (saved / name).write_bytes(content)
    assert name in error_of(saved)


@pytest.mark.parametrize("written", ["bottleneck-transformer-flax/2", None, 1])
def test_another_format(saved, written):
    change_json(saved / "config.json", format=written)
    message = error_of(saved)
    assert repr(written) in message
    assert "bottleneck-transformer-flax/1" in message


def test_no_format(saved):
    values = json.loads((saved / "config.json").read_text())
    del values["format"]
    (saved / "config.json").write_text(json.dumps(values))
    assert "format" in error_of(saved)


def test_every_tensor_that_does_not_fit_is_listed_in_one_error(saved):
    arrays = load_file(saved / WEIGHTS)
    names = sorted(arrays)
    missing, reshaped, recast = names[0], names[1], names[2]
    shape = arrays[reshaped].shape
    del arrays[missing]
    arrays["params.extra.kernel"] = np.zeros((2, 3), np.float32)
    arrays[reshaped] = np.zeros((*shape, 5), np.float32)
    arrays[recast] = arrays[recast].astype(np.float16)
    save_file(arrays, saved / WEIGHTS)
    message = error_of(saved)
    assert "4 differences" in message
    for part in (missing, "params.extra.kernel", reshaped, recast):
        assert part in message
    assert str((*shape, 5)) in message
    assert str(shape) in message
    assert "float16" in message
    assert "float32" in message


def test_wrong_number_of_classes(saved):
    (saved / "classes.json").write_text('["ant", "bee"]')
    message = error_of(saved)
    assert "2 classes" in message
    assert "3 outputs" in message


def test_unknown_config_field(saved):
    change_json(saved / "config.json", num_head=4)
    message = error_of(saved)
    assert "'num_head'" in message
    assert "num_heads" in message


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "stage_sizes", [1, 1, 1]),
        ("config.json", "stage_sizes", None),
        ("config.json", "num_heads", 0),
        ("config.json", "dtype", "float8"),
        ("config.json", "activation", "swish"),
        ("config.json", "se_ratio", "much"),
        ("preprocessing.json", "size", [16]),
        ("preprocessing.json", "size", 16),
        ("preprocessing.json", "size", [2, 2]),
        ("preprocessing.json", "crop", 0),
        ("preprocessing.json", "crop", "all"),
        ("preprocessing.json", "std", [1, 1, 0]),
        ("preprocessing.json", "std", ["a", "b", "c"]),
        ("preprocessing.json", "mean", None),
        ("preprocessing.json", "interpolation", "best"),
        ("preprocessing.json", "colour", "sRGB"),
    ],
)
def test_values_that_no_model_can_have(saved, file, field, value):
    change_json(saved / file, **{field: value})
    error_of(saved)


def test_another_size_in_the_record_does_not_fit_the_tables(saved):
    change_json(saved / "preprocessing.json", size=[32, 16])
    assert "relative" in error_of(saved)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(saved):
    (saved / WEIGHTS).chmod(0)
    assert WEIGHTS in error_of(saved)
