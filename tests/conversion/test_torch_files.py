"""Foreign files give their arrays, run nothing, and every damaged one is told in one line."""

import argparse
import builtins
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bottleneck_transformer_flax.conversion.torch_files import read_arrays, write_safetensors
from bottleneck_transformer_flax.errors import CheckpointError

ARRAYS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
COUNTED = ARRAYS | {"a.num_batches_tracked": torch.tensor(7)}


class Code:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def assert_these(arrays):
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, ARRAYS[name].numpy())


def message_of(path):
    with pytest.raises(CheckpointError) as caught:
        read_arrays(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.mark.parametrize(
    "content",
    [
        COUNTED,
        {"state_dict": COUNTED, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}},
        {"state_dict": {f"module.{name}": value for name, value in COUNTED.items()}},
        {"state_dict": {"other": torch.zeros(1)}, "state_dict_ema": COUNTED},
        {"model": COUNTED, "args": argparse.Namespace(model="botnet26t_256", lr=0.1)},
        {name: torch.nn.Parameter(value) for name, value in ARRAYS.items()},
    ],
    ids=["plain", "wrapped", "data parallel", "averaged", "options", "parameters"],
)
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".bin", ".pt"])
def test_pytorch_files(tmp_path, content, suffix):
    torch.save(content, tmp_path / f"model{suffix}")
    assert_these(read_arrays(tmp_path / f"model{suffix}"))


def test_the_format_before_zip(tmp_path):
    torch.save(COUNTED, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_these(read_arrays(tmp_path / "old.pth"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_safetensors_of_any_precision(tmp_path, dtype):
    save_file(
        {name: value.to(dtype) for name, value in COUNTED.items()}, tmp_path / "a.safetensors"
    )
    assert_these(read_arrays(tmp_path / "a.safetensors"))


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "b.safetensors"
    write_safetensors(path, {name: value.numpy() for name, value in ARRAYS.items()})
    assert_these(read_arrays(path))
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [entry.name for entry in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("place", ["beside", "whole"])
def test_code_is_never_executed(tmp_path, old_format, place):
    marker = tmp_path / "executed"
    content = {"state_dict": ARRAYS, "hook": Code(marker)} if place == "beside" else Code(marker)
    path = tmp_path / "evil.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    message = message_of(path)
    assert "holds code, or objects that only code could make (posix.mkdir)" in message
    assert "nothing in it was executed" in message
    assert not marker.exists()
    pickle.loads(pickle.dumps(Code(marker)))
    assert marker.exists(), "the test's code does nothing when it is executed"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_of_pythons_own_is_not_executed(tmp_path, protocol):
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(Code(tmp_path / "executed"), protocol))
    assert "nothing in it was executed" in message_of(tmp_path / "evil.bin")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
@pytest.mark.parametrize("plain", ["state_dict", "model"])
def test_the_averaged_ones_are_taken(tmp_path, key, plain):
    other = {name: value + 1 for name, value in ARRAYS.items()}
    torch.save({plain: other, key: COUNTED}, tmp_path / "a.pth")
    assert_these(read_arrays(tmp_path / "a.pth"))
    torch.save({plain: COUNTED, key: {}}, tmp_path / "off.pth")
    assert_these(read_arrays(tmp_path / "off.pth"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wraps_a_module_is_taken_off_its_names(tmp_path, prefix):
    wrapped = {prefix + name: value for name, value in COUNTED.items()}
    torch.save(wrapped | {"n_averaged": torch.tensor(3)}, tmp_path / "a.pth")
    assert_these(read_arrays(tmp_path / "a.pth"))
    save_file(wrapped, tmp_path / "a.safetensors")
    assert_these(read_arrays(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_integers_are_no_weights(tmp_path, suffix):
    quantised = ARRAYS | {"body.weight": torch.ones(2, 2, dtype=torch.int8)}
    path = tmp_path / f"a{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(quantised, path)
    assert "not floating-point: body.weight" in message_of(path)


def test_an_archive(tmp_path):
    (tmp_path / "a.txt").touch()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.txt")
    assert message_of(tmp_path / "a.tar").endswith("unpack it, and name the file of the weights")


def test_a_pretrained_directory_is_not_written_into(tmp_path):
    (tmp_path / "config.json").write_text('{"format": "bottleneck-transformer-flax/1"}')
    with pytest.raises(CheckpointError, match="would be in a pretrained directory"):
        write_safetensors(tmp_path / "model.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "torch.nn.modules.linear.Linear" in message_of(tmp_path / "module.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("kept", [0, 1, 7, 100, -1])
def test_truncated(tmp_path, suffix, kept):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".safetensors":
        save_file(ARRAYS, whole)
    else:
        torch.save(ARRAYS, whole)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:kept])
    message = message_of(cut)
    assert "cannot be read" in message or "is damaged" in message


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"\x00\x01 no checkpoint" * 9)
    assert "damaged, or holds code, or is not a PyTorch file" in message_of(tmp_path / "a.pth")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    assert "no named arrays" in message_of(tmp_path / "tensor.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    assert "no named arrays" in message_of(tmp_path / "epoch.pth")
    (tmp_path / "a.onnx").touch()
    assert "ends in '.onnx'; expected .safetensors, .pth" in message_of(tmp_path / "a.onnx")
    assert "does not exist" in message_of(tmp_path / "missing.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "is not a file" in message_of(tmp_path / "folder.pth")


@pytest.mark.parametrize("content", [b"error: not found", b"the page is gone", b"access denied"])
def test_a_message_saved_as_a_file(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    message = message_of(tmp_path / "a.pth")
    assert "cannot be read" in message or "damaged" in message


def test_arrays_that_are_not_dense(tmp_path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "a.pth")
    assert "not dense" in message_of(tmp_path / "a.pth")


def test_without_pytorch(tmp_path, monkeypatch):
    torch.save(ARRAYS, tmp_path / "a.pth")
    real_import = builtins.__import__

    def without_torch(name, *arguments, **options):
        if name == "torch":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert "install this package's 'torch' extra" in message_of(tmp_path / "a.pth")


def test_a_bad_name_to_write(tmp_path):
    for path in (tmp_path / "a.pth", tmp_path):
        with pytest.raises(CheckpointError, match=r"expected the name of a \.safetensors file"):
            write_safetensors(path, {})
