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


@pytest.fixture(params=[False, True], ids=["new", "replacing"])
def before(tmp_path, request):
    """What is there before a write: nothing, or an older folder and file."""
    if request.param:
        (tmp_path / "model").mkdir()
        (tmp_path / "model/old").touch()
        write_text(tmp_path / "a.json", "old")
    return sorted(tmp_path.rglob("*"))


def test_files_and_directories_are_replaced_whole(tmp_path, before):
    directory, text = tmp_path / "model", tmp_path / "a.json"
    with atomic_directory(directory) as beside:
        (beside / "new").touch()
        assert beside.match(UNFINISHED_FILES)
        assert directory.exists() == bool(before)
    write_text(text, "nëw 蜂\n")
    assert text.read_text(encoding="utf-8") == "nëw 蜂\n"
    assert sorted(tmp_path.rglob("*")) == [text, directory, directory / "new"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_or_interrupted_write_changes_nothing(tmp_path, error, before):
    with pytest.raises(type(error)), atomic_directory(tmp_path / "model") as beside:
        (beside / "new").touch()
        raise error
    with pytest.raises(type(error)), atomic_file(tmp_path / "a.json") as beside:
        beside.write_text("ne")
        raise error
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.json", "\udcff")
    assert sorted(tmp_path.rglob("*")) == before
    assert not before or (tmp_path / "a.json").read_text() == "old"


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


@pytest.mark.parametrize("told", [True, False])
def test_an_error_names_the_file_that_was_asked_for(tmp_path, monkeypatch, told):
    """Whether the system tells which file it is about or not."""

    def refuse(path, *arguments, **options):
        names = [str(path)] if told else []
        raise OSError(errno.ENOSPC, "No space left on device", *names)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "below/a.json", "new")
    assert caught.value.filename == str(tmp_path / "below/a.json")
    with pytest.raises(OSError) as caught, atomic_directory(tmp_path / "folder") as beside:
        (beside / "b.json").write_bytes(b"new")
    assert caught.value.filename == str(tmp_path / "folder")
    monkeypatch.setattr(Path, "mkdir", lambda path, **o: path.exists() or refuse(path))
    with pytest.raises(OSError) as caught, atomic_directory(tmp_path / "folder"):
        pass
    assert caught.value.filename == str(tmp_path / "folder")
    assert entries(tmp_path) == ["below"]


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


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, BUSY):
        (warning,) = caplog.messages
    assert str(tmp_path) in warning
    assert "No locks available" in warning
