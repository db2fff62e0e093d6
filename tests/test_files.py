"""Files and folders appear whole or not at all, and one process at a time has a lock."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.files import (
    UNFINISHED_FILES,
    atomic_directory,
    atomic_file,
    locked,
    write_text,
)
from training.tiny import entries

BUSY = DataError("another process is there")


def test_text_is_replaced_whole(tmp_path):
    write_text(tmp_path / "below/a.json", "old")
    write_text(tmp_path / "below/a.json", "nëw 蜂\n")
    assert (tmp_path / "below/a.json").read_text(encoding="utf-8") == "nëw 蜂\n"
    assert entries(tmp_path / "below") == ["a.json"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_directory_is_replaced_whole(tmp_path, existed):
    directory = tmp_path / "model"
    if existed:
        directory.mkdir()
        (directory / "old").touch()
    with atomic_directory(directory) as beside:
        (beside / "new").touch()
        assert beside.match(UNFINISHED_FILES)
        assert directory.exists() == existed
    assert entries(directory) == ["new"]
    assert entries(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError(), KeyboardInterrupt()])
@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_or_interrupted_write_changes_nothing(tmp_path, error, existed):
    if existed:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "old").touch()
        write_text(tmp_path / "a.json", "old")
    before = entries(tmp_path)
    with pytest.raises(type(error)), atomic_directory(tmp_path / "model") as beside:
        (beside / "new").touch()
        raise error
    with pytest.raises(type(error)), atomic_file(tmp_path / "a.json") as beside:
        beside.write_text("ne")
        raise error
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.json", "\udcff")
    assert entries(tmp_path) == before
    if existed:
        assert entries(tmp_path / "model") == ["old"]
        assert (tmp_path / "a.json").read_text() == "old"


def test_a_directory_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "old").touch()
    rename = Path.rename

    def refuse(path, target):
        if path.match(UNFINISHED_FILES):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match=r"model'$"), atomic_directory(directory):
        pass
    assert entries(tmp_path) == ["model"]
    assert entries(directory) == ["old"]


def no_space(path, *arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def forbidden(path, *arguments, **options):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


@pytest.mark.parametrize("refuse", [no_space, forbidden])
def test_an_error_names_the_file_that_was_asked_for(tmp_path, monkeypatch, refuse):
    make = Path.mkdir
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match=r"a\.json") as caught:
        write_text(tmp_path / "a.json", "new")
    assert caught.value.filename == str(tmp_path / "a.json")
    told = pytest.raises(OSError, match="folder")
    with told as caught, atomic_directory(tmp_path / "folder") as beside:
        (beside / "b.json").write_bytes(b"new")
    assert caught.value.filename == str(tmp_path / "folder")
    monkeypatch.setattr(
        Path, "mkdir", lambda path, **o: (refuse if path.name[0] == "." else make)(path, **o)
    )
    with pytest.raises(OSError, match="folder") as caught, atomic_directory(tmp_path / "folder"):
        pass
    assert caught.value.filename == str(tmp_path / "folder")
    assert entries(tmp_path) == []


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(OSError, match="another"), atomic_directory(tmp_path / "folder"):
        (tmp_path / "another").read_bytes()


def test_the_next_write_removes_what_a_killed_process_left_and_nothing_else(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    names = [f"{os.getppid()}.new", f"1.{killed.pid}.new", "b.new", "new"]
    of_others = [tmp_path / f".a.json.{name}" for name in names]
    for file in of_others:
        file.touch()
    # In a container, the process that is killed and the next one often have the same number.
    for number in (killed.pid, os.getpid()):
        for left in (tmp_path / f".folder.{number}.new", tmp_path / f".folder.{number}.old"):
            left.mkdir()
            (left / "half").touch()
        (tmp_path / f".a.json.{number}.new").touch()
    with atomic_directory(tmp_path / "folder") as folder:
        (folder / "whole").touch()
    write_text(tmp_path / "a.json", "whole")
    written = [tmp_path / name for name in ("a.json", "folder", "folder/whole")]
    assert sorted(tmp_path.rglob("*")) == sorted([*of_others, *written])


@pytest.mark.parametrize("name", [".", "lock"])
def test_a_folder_or_a_file_is_locked_once(tmp_path, name):
    with locked(tmp_path / name, BUSY), pytest.raises(DataError, match="another process is there"):
        locked(tmp_path / name, BUSY).__enter__()
    with locked(tmp_path / name, BUSY):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, BUSY):
        (warning,) = caplog.messages
    assert str(tmp_path) in warning
    assert os.strerror(number) in warning
