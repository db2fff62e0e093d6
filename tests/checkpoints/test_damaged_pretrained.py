"""Whatever is wrong with a pretrained directory is told in one line that names it."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.checkpoints.pretrained_files import REQUIRED, WEIGHTS


@pytest.fixture
def told(saved, refusal):
    """Why the directory cannot be loaded."""

    def load():
        message = refusal(load_pretrained, saved)
        assert str(saved) in message
        return message

    return load


def change_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_missing_directory_or_a_file(saved, refusal):
    message = refusal(load_pretrained, saved.parent / "nowhere")
    assert f"{saved.parent}/nowhere does not exist" in message
    assert "botnet_tiny" in message
    assert refusal(load_pretrained, saved / WEIGHTS).endswith(f"name its folder, {saved}")
    file = saved.parent / "a b.pth"
    file.touch()
    command = f"botnet import '{file}' --variant VARIANT --out FOLDER"
    assert f"convert them with `{command}`" in refusal(load_pretrained, file)


def test_a_run_that_is_not_finished_names_the_command_and_its_best_model(saved, refusal, tmp_path):
    run = tmp_path / "a run"
    run.mkdir()
    (run / "run.json").touch()
    resume = f"finish it with `botnet train --resume --run-directory '{run}'`"
    assert refusal(load_pretrained, run).endswith(resume)
    saved.rename(run / "best")
    assert refusal(load_pretrained, run).endswith(f"{resume}, or name {run / 'best'}")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_file_that_is_missing_cut_off_or_something_else(saved, told, name):
    content = (saved / name).read_bytes()
    for damaged in (b"", content[:4], content[:-3], b"<html>404</html>" * 99, b"\xff\xfe", b"7"):
        (saved / name).write_bytes(damaged)
        assert name in told()
        if name == WEIGHTS:
            assert re.search(f": {name} is (empty|not a safetensors file|truncated)", told())
    (saved / name).unlink()
    assert name in told()


def test_another_format_or_number_of_classes(saved, told):
    (saved / "classes.json").write_text('["ant", "bee"]')
    assert "names 2 classes; the model has 3 outputs" in told()
    for written in ("bottleneck-transformer-flax/2", None, 1):
        change_json(saved / "config.json", format=written)
        assert f"has format {written!r}; this version reads 'bottleneck-tr" in told()


def test_every_tensor_that_does_not_fit_is_listed_in_one_error(saved, told):
    arrays = load_file(saved / WEIGHTS)
    missing, reshaped, recast, infinite, *_ = sorted(arrays)
    shape = arrays[reshaped].shape
    del arrays[missing]
    arrays["params.extra.kernel"] = np.zeros((2, 3), np.float32)
    arrays[reshaped] = np.zeros((*shape, 5), np.float32)
    arrays[recast] = arrays[recast].astype(np.float16)
    arrays[infinite] = np.full_like(arrays[infinite], np.inf)
    save_file(arrays, saved / WEIGHTS)
    message = told()
    assert "5 differences" in message
    for part in (
        f"missing: {missing}",
        "not in the model: params.extra.kernel",
        f"{reshaped} is float32 {(*shape, 5)} instead of float32 {shape}",
        f"{recast} is float16",
        f"{infinite} has values that are not finite",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("file", "field", "value", "part"),
    [
        ("config.json", "num_head", 4, "did you mean 'num_heads'"),
        ("preprocessing.json", "mean", None, "mean"),
        ("preprocessing.json", "size", [2, 2], "2 × 2"),
        ("preprocessing.json", "size", [32, 16], "relative"),
    ],
)
def test_values_that_no_model_can_have(saved, told, file, field, value, part):
    change_json(saved / file, **{field: value})
    assert part in told()
