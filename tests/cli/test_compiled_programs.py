"""What one command has compiled the next one takes from the user's cache, and none stumbles there.

These are processes, because JAX looks for its cache once in each.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bottleneck_transformer_flax.cli import compiled_programs
from bottleneck_transformer_flax.cli.compiled_programs import (
    FOLDER,
    keep_compiled_programs,
    remove_least_recent,
)
from cli.test_processes import finish, start
from training.tiny import colour_images

JAX = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
PROGRAM = "jit_probabilities"
HIT = f"Persistent compilation cache hit for '{PROGRAM}'"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A user with nothing but an image, whose cache is ``cache/``."""
    for name in JAX:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(colour_images(1)[0]).save("image.png")
    return tmp_path


def predict(folder, **environment):
    return start(folder, "predict", "--json", "image.png", **environment)


def entries(cache):
    return {path: path.read_bytes() for path in (cache / FOLDER).glob(f"{PROGRAM}-*-cache")}


def test_compiled_by_two_at_once_and_taken_by_a_third(elsewhere):
    first, second = map(finish, [predict(elsewhere), predict(elsewhere)])
    assert first == second
    code, out, err = first
    assert (code, err) == (0, "")
    written = entries(elsewhere / "cache")
    assert len(written) == 1
    third = finish(predict(elsewhere, JAX_LOG_COMPILES="1"))
    assert third[:2] == (0, out)
    assert HIT in third[2]
    assert entries(elsewhere / "cache") == written
    assert (elsewhere / "cache" / FOLDER).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"no program", None], ids=["empty", "other", "cut off"])
def test_a_damaged_entry_is_compiled_and_written_anew(elsewhere, content):
    code, out, _ = finish(predict(elsewhere))
    assert code == 0
    ((entry, whole),) = entries(elsewhere / "cache").items()
    entry.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert finish(predict(elsewhere)) == (0, out, "")
    third = finish(predict(elsewhere, JAX_LOG_COMPILES="1"))
    assert third[:2] == (0, out)
    assert HIT in third[2]


@pytest.mark.parametrize("place", ["a file", "read only", "no home"])
def test_where_there_can_be_no_cache_the_command_does_its_work(elsewhere, place):
    (elsewhere / "file").touch()
    (elsewhere / "locked").mkdir(mode=0o555)
    # Who may write anywhere, as in many containers, still cannot there.
    locked = "/proc" if os.geteuid() == 0 else str(elsewhere / "locked")
    cache, home = {
        "a file": (str(elsewhere / "file"), str(elsewhere)),
        "read only": (locked, str(elsewhere)),
        "no home": ("", str(elsewhere / "file" / "none")),
    }[place]
    code, out, err = finish(predict(elsewhere, XDG_CACHE_HOME=cache, HOME=home))
    assert (code, err) == (0, "")
    assert '"image.png"' in out
    assert not (elsewhere / "cache").exists()


def test_a_full_disk_is_no_message(elsewhere):
    # Nothing larger than a kilobyte can be written, which is how a full disk looks to JAX.
    program = (
        "import resource, signal, sys; from bottleneck_transformer_flax.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "sys.exit(main(['predict', '--json', 'image.png']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=elsewhere, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"image.png"' in done.stdout
    assert entries(elsewhere / "cache") == {}


@pytest.mark.parametrize("whose", ["writable by all", "of another"])
def test_a_folder_that_others_write_is_not_trusted(elsewhere, monkeypatch, whose):
    folder = elsewhere / "cache" / FOLDER
    folder.mkdir(parents=True)
    if whose == "writable by all":
        folder.chmod(0o777)
    else:
        os.chown(folder, 12345, -1) if os.geteuid() == 0 else pytest.skip("needs root")
    keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_what_the_user_says_to_jax_holds(elsewhere, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "False")
    keep_compiled_programs()
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == ""
    assert not (elsewhere / "cache").exists()


def test_a_threshold_of_the_user_s_holds(elsewhere, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(elsewhere / "cache" / FOLDER)
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7"


@pytest.mark.parametrize(
    ("platform", "named", "expected"),
    [
        ("linux", "", "home/.cache"),
        ("linux", "relative", "home/.cache"),
        ("darwin", "", "home/Library/Caches"),
        ("darwin", "/named", "/named"),
    ],
)
def test_the_cache_is_where_the_system_has_it(elsewhere, monkeypatch, platform, named, expected):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", str(elsewhere / "home"))
    assert compiled_programs._users_cache() == elsewhere / expected


def test_the_library_keeps_nothing(elsewhere):
    program = (
        "import jax, os; from bottleneck_transformer_flax import load_pretrained\n"
        "load_pretrained('botnet_tiny')\n"
        "assert jax.config.jax_compilation_cache_dir is None\n"
        "assert not os.path.exists('cache')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=elsewhere, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_least_recently_used_files_go_when_there_is_too_much(tmp_path):
    sizes = {"old": 30, "read": 30, "below/new": 40}
    for number, (name, size) in enumerate(sizes.items()):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (number, number))
    os.utime(tmp_path / "read", (9, 1))

    def left():
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}

    for largest_bytes, expected in (
        (100, {"old", "read", "below/new"}),
        (99, {"read", "below/new"}),
        (69, {"read"}),
        (29, set()),
    ):
        remove_least_recent(tmp_path, largest_bytes)
        assert left() == expected
    assert Path(tmp_path / "below").is_dir()
