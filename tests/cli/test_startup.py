"""Programs compiled by one command are there for the next, which no state of the cache can stop."""

import os
import subprocess
import sys

import pytest

from bottleneck_transformer_flax.cli import startup
from bottleneck_transformer_flax.cli.startup import (
    COMPILED,
    empty_if_large,
    keep_compiled_programs,
)

HIT = "Persistent compilation cache hit for 'jit_program'"
# JAX looks for its cache once in each process.
PROGRAM = """
from bottleneck_transformer_flax.cli.startup import keep_compiled_programs
keep_compiled_programs()
import jax
def program(x): return x + 1
print(jax.jit(program)(1))
"""
# No file may be longer than a hundred bytes, which looks like a full disk to JAX.
FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A user whose cache is ``cache/``; every program is kept there."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    # Before monkeypatch restores what was there, which is not what was added.
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)


def compiled(program=PROGRAM, **environment):
    """Run a program in a new process; what it writes on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    return done.stderr


def entries(folder):
    return {path: path.read_bytes() for path in (folder / "cache" / COMPILED).glob("*-cache")}


def test_a_compiled_program_is_there_for_the_next_process_and_trouble_is_no_message(elsewhere):
    assert compiled() == ""
    written = entries(elsewhere)
    assert len(written) >= 1
    assert (elsewhere / "cache" / COMPILED).stat().st_mode & 0o077 == 0
    assert HIT in compiled(JAX_LOG_COMPILES="1")
    assert entries(elsewhere) == written
    for path, content in written.items():
        path.write_bytes(content[: len(content) // 2])
    assert compiled() == ""
    for path in written:
        path.unlink()
    assert compiled(FULL_DISK + PROGRAM) == ""
    assert all(len(content) <= 100 for content in entries(elsewhere).values())


@pytest.mark.parametrize(
    "place", ["a file", "read only", "no home", "writable by all", "another user's"]
)
def test_without_a_place_of_its_own_there_is_no_cache(elsewhere, monkeypatch, place):
    folder = elsewhere / "cache" / COMPILED
    folder.mkdir(parents=True)
    if place == "a file":
        (elsewhere / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere / "file"))
    elif place == "read only":
        # Root, which many containers run as, may write anywhere but here.
        folder.chmod(0o555)
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc" if os.geteuid() == 0 else str(folder))
    elif place == "no home":
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", "/proc/none")
    elif place == "writable by all":
        folder.chmod(0o777)
    else:
        os.chown(folder, 12345, -1) if os.geteuid() == 0 else pytest.skip("needs root")
    keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_users_own_settings_of_jax_take_precedence(elsewhere, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "False")
    keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == ""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(elsewhere / "cache" / COMPILED)
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"


def test_the_cache_is_where_the_system_has_it(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(elsewhere / "home"))
    for platform, named, expected in (
        ("linux", "", "home/.cache"),
        ("linux", "relative", "home/.cache"),
        ("darwin", "", "home/Library/Caches"),
        ("darwin", str(elsewhere / "named"), "named"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        keep_compiled_programs()
        cache = elsewhere / expected / COMPILED
        assert os.environ.pop("JAX_COMPILATION_CACHE_DIR") == str(cache)


def test_a_cache_that_is_too_large_is_emptied_whole(elsewhere, monkeypatch):
    folder = elsewhere / "cache" / COMPILED
    (folder / "below").mkdir(parents=True)
    for path in (folder / "a", folder / "below" / "b"):
        path.write_bytes(bytes(50))
    empty_if_large(folder, 100)
    assert len(list(folder.rglob("*"))) == 3
    monkeypatch.setattr(startup, "MAX_COMPILED_BYTES", 99)
    keep_compiled_programs()
    assert list(folder.iterdir()) == []
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder)
