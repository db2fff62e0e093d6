"""One process at a time in a folder, where its file system can see to it."""

import errno
import fcntl
import os

import pytest

from bottleneck_transformer_flax.errors import DataError
from bottleneck_transformer_flax.files import locked

BUSY = DataError("somebody is there")


@pytest.mark.parametrize("name", [".", "lock"])
def test_a_folder_or_a_file_is_locked_once(tmp_path, name):
    with locked(tmp_path / name, BUSY), pytest.raises(DataError, match="somebody is there"):
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
