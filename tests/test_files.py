"""Files and folders are whole or not there at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bottleneck_transformer_flax.files import (
    atomic_directory,
    remove_unfinished,
    temporary_directory,
    write_text,
)
from training.tiny import entries


def test_text_is_replaced(tmp_path):
    write_text(tmp_path / "a.json", "old")
    write_text(tmp_path / "a.json", "nëw 蜂\n")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "nëw 蜂\n"
    assert entries(tmp_path) == ["a.json"]


def test_a_temporary_directory_is_gone_afterwards_or_when_interrupted():
    with temporary_directory() as folder:
        (folder / "a").write_text("a")
    assert not folder.exists()
    with temporary_directory() as folder:
        (folder / "a").write_text("a")
        remove_unfinished()
        assert not folder.exists()


def full(path, *arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def forbidden(path, *arguments, **options):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


@pytest.mark.parametrize("refuse", [full, forbidden])
def test_errors_have_the_name_that_was_meant(tmp_path, monkeypatch, refuse):
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match=r"a\.json") as caught:
        write_text(tmp_path / "a.json", "new")
    assert caught.value.filename == str(tmp_path / "a.json")
    told = pytest.raises(OSError, match="folder")
    with told as caught, atomic_directory(tmp_path / "folder") as beside:
        (beside / "b.json").write_bytes(b"new")
    assert caught.value.filename == str(tmp_path / "folder")
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_be_made_has_its_own_name_too(tmp_path, monkeypatch):
    make = Path.mkdir
    monkeypatch.setattr(
        Path, "mkdir", lambda path, **o: (forbidden if path.name[0] == "." else make)(path, **o)
    )
    with pytest.raises(PermissionError) as caught, atomic_directory(tmp_path / "folder"):
        pass
    assert caught.value.filename == str(tmp_path / "folder")


def test_a_failed_text_leaves_the_old_one(tmp_path, monkeypatch):
    write_text(tmp_path / "a.json", "old")
    write = Path.write_bytes

    def half(path, content):
        write(path, content[:2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        write_text(tmp_path / "a.json", "new text")
    assert (tmp_path / "a.json").read_text() == "old"
    assert entries(tmp_path) == ["a.json"]


def test_a_text_that_cannot_be_encoded_leaves_the_old_one(tmp_path):
    write_text(tmp_path / "a.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.json", "\udcff")
    assert (tmp_path / "a.json").read_text() == "old"
    assert entries(tmp_path) == ["a.json"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_directory_appears_whole(tmp_path, existed):
    directory = tmp_path / "model"
    if existed:
        directory.mkdir()
        (directory / "old").write_text("old")
    with atomic_directory(directory) as beside:
        (beside / "new").write_text("new")
        assert entries(beside) == ["new"]
        assert directory.exists() == existed
    assert entries(directory) == ["new"]
    assert entries(tmp_path) == ["model"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_directory_changes_nothing(tmp_path, existed):
    directory = tmp_path / "model"
    if existed:
        directory.mkdir()
        (directory / "old").write_text("old")
    before = entries(tmp_path)
    with pytest.raises(RuntimeError), atomic_directory(directory) as beside:
        (beside / "new").write_text("new")
        raise RuntimeError
    assert entries(tmp_path) == before
    if existed:
        assert entries(directory) == ["old"]


def test_a_directory_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "old").write_text("old")
    rename = Path.rename

    def refuse(path, target):
        if path.name.endswith(".new"):
            raise PermissionError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError), atomic_directory(directory):
        pass
    assert entries(tmp_path) == ["model"]
    assert entries(directory) == ["old"]


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(tmp_path):
    left = tmp_path / f".folder.{os.getpid()}.new"
    left.mkdir()
    (left / "half").touch()
    with atomic_directory(tmp_path / "folder") as folder:
        (folder / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "whole"]


PROGRAM = """
import sys
from pathlib import Path
from bottleneck_transformer_flax import files
from bottleneck_transformer_flax.cli.interrupts import end_at_once

with files.atomic_directory(Path("folder")) as folder, files.atomic_file(Path("a")) as file:
    (folder / "half").write_text("half")
    file.write_text("half")
    assert len(list(Path().iterdir())) == 4
    end_at_once()
"""


def test_an_interrupt_in_mid_writing_leaves_what_was_there(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    (tmp_path / "a").write_text("old")
    ended = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True)
    assert (ended.returncode, ended.stderr) == (1, b"botnet: error: interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"]
    assert (tmp_path / "a").read_text() == (tmp_path / "folder" / "old").read_text() == "old"
