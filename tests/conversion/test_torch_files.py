"""PyTorch and safetensors files give their arrays and run nothing; damage is told in one line."""

import argparse
import os
import pathlib
import pickle
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bottleneck_transformer_flax.conversion.torch_files import read_arrays, write_safetensors
from bottleneck_transformer_flax.errors import CheckpointError

ARRAYS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(2)}
COUNTED = ARRAYS | {"a.num_batches_tracked": torch.tensor(7)}
OTHER = {name: value + 1 for name, value in ARRAYS.items()}


class Code:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def assert_read(path):
    arrays = read_arrays(path)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, ARRAYS[name].numpy())


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_arrays(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize(
    "content",
    [
        COUNTED,
        {"state_dict": COUNTED, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}},
        {"model": COUNTED, "args": argparse.Namespace(model="botnet26t_256", lr=0.1)},
        {f"module._orig_mod.{name}": value for name, value in COUNTED.items()}
        | {"n_averaged": torch.tensor(3)},
        {"state_dict": OTHER, "state_dict_ema": COUNTED},
        {"model": OTHER, "model_ema": COUNTED},
        {"state_dict": COUNTED, "model_ema": {}},
        {"state_dict": {f"model.net.{name}": value for name, value in COUNTED.items()}},
        {"state_dict": COUNTED, "top1": np.float64(0.9), "by_class": np.array([[1, 2]])},
        {"model": COUNTED, "args": {"data": pathlib.Path("photos"), "seed": np.int64(3)}},
        {name: torch.nn.Parameter(value) for name, value in ARRAYS.items()},
    ],
)
def test_pytorch_files(tmp_path, content):
    formats = ((".pth", True), (".ckpt", True), (".pth.tar", True), (".bin", True), (".pt", False))
    for suffix, zipped in formats:
        path = tmp_path / f"model{suffix}"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert_read(path)


def test_scalars_of_numpy_1_are_data_too(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(COUNTED | {"top1": np.float64(0.9)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert_read(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_not_executed(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert "is a TorchScript program, not weights; nothing in it was executed" in message
    assert message.endswith("Ask for a file of the weights alone, best as .safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_safetensors_of_any_precision(tmp_path, dtype):
    arrays = {f"module.{name}": value.to(dtype) for name, value in COUNTED.items()}
    save_file(arrays, tmp_path / "a.safetensors")
    assert_read(tmp_path / "a.safetensors")


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "b.safetensors"
    write_safetensors(path, {name: value.numpy() for name, value in ARRAYS.items()})
    assert_read(path)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nothing_is_written_into_a_pretrained_directory_or_under_another_suffix(tmp_path):
    for path in (tmp_path / "a.pth", tmp_path):
        with pytest.raises(CheckpointError, match=r"expected the name of a \.safetensors file"):
            write_safetensors(path, {})
    (tmp_path / "config.json").write_text('{"format": "bottleneck-transformer-flax/1"}')
    with pytest.raises(CheckpointError, match="would be in a pretrained directory"):
        write_safetensors(tmp_path / "model.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("beside_arrays", [False, True])
def test_code_is_never_executed(tmp_path, beside_arrays):
    marker, path = tmp_path / "executed", tmp_path / "evil.bin"
    content = {"state_dict": ARRAYS, "hook": Code(marker)} if beside_arrays else Code(marker)
    for zipped in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert "holds code, or objects that only code could make (posix.mkdir)" in refusal(path)
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(content, protocol))
        told = refusal(path)
        assert "nothing in it was executed" in told or "is not a PyTorch file" in told
    assert not marker.exists()
    pickle.loads(pickle.dumps(content))
    assert marker.exists(), "the test's code does nothing when it is executed"


def save_as_before(arrays, path):
    torch.save(arrays, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("save", "name"),
    [(save_file, "a.safetensors"), (torch.save, "a.pth"), (save_as_before, "a.pth")],
)
def test_quantized_weights_and_truncated_files(tmp_path, save, name):
    path = tmp_path / name
    save(ARRAYS | {"body.weight": torch.ones(2, 2, dtype=torch.int8)}, path)
    assert "not floating-point: body.weight" in refusal(path)
    save(ARRAYS, path)
    whole = path.read_bytes()
    for kept in (100, len(whole) // 2, -1):
        path.write_bytes(whole[:kept])
        assert refusal(path) == f"{path} is truncated or damaged; copy or download it again"
    path.write_bytes(b"")
    assert refusal(path) == f"{path} is empty; copy or download it again"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.pth", b"\x00\x01 no checkpoint" * 9, "is not a PyTorch file; name another, or"),
        ("a.pth", b"some text", "is not a PyTorch file; "),
        ("a.pth", pickle.dumps({"a": 1}), "is not a PyTorch file; "),
        ("a.safetensors", b"<!DOCTYPE html>", "is not a safetensors file; name another, or"),
        ("a.pth", torch.ones(3), "no named arrays"),
        ("a.pth", {"epoch": 3}, "no named arrays"),
        ("a.pth", {"a": torch.eye(3).to_sparse()}, "not dense"),
        ("a.pth", torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ("a.onnx", b"", "ends in '.onnx'; expected .safetensors, .pth"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, name, content, told):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    assert told in refusal(tmp_path / name)


def test_what_is_no_file_or_an_archive(tmp_path):
    assert "does not exist" in refusal(tmp_path / "missing.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "is not a file" in refusal(tmp_path / "folder.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("weights.bin", "")
    assert refusal(tmp_path / "a.pth").endswith("unpack it, and name the file of the weights")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "folder.pth")
    assert refusal(tmp_path / "a.tar").endswith("unpack it, and name the file of the weights")


def test_without_pytorch(tmp_path, monkeypatch):
    torch.save(ARRAYS, tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "install this package's 'torch' extra" in refusal(tmp_path / "a.pth")
