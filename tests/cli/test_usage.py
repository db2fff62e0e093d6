"""Commands, help and the list of variants; bad usage is one line, without a traceback."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bottleneck_transformer_flax import list_variants
from bottleneck_transformer_flax.cli import COMMANDS, main
from bottleneck_transformer_flax.cli.commands import as_typed
from bottleneck_transformer_flax.cli.options import command_line


@pytest.mark.parametrize("arguments", [(), ("data",)])
def test_no_command_is_help_and_exit_2(call, arguments):
    called = call(*arguments)
    assert (called.code, called.out) == (2, "")
    assert called.err.startswith(" ".join(["usage: botnet", *arguments, "COMMAND"]))


def test_an_unknown_command_names_the_nearest_and_all_others(fails):
    for name in ("tain", "trainer", "--colour", ""):
        message = fails(2, name)
        assert repr(name) in message
        assert "did you mean 'train'" in message or name in ("--colour", "")
        assert all(command in message for command in COMMANDS)


def test_help_lists_the_commands(call):
    for option in ("--help", "-h"):
        called = call(option)
        assert (called.code, called.err) == (0, "")
        assert all(f"\n  {name:<8}  {what}\n" in called.out for name, what in COMMANDS.items())
    assert call("--version").out.startswith("botnet 1.")


@pytest.mark.parametrize("command", [*COMMANDS, "data pack", "data show"])
def test_a_commands_help_describes_its_options(call, command):
    called = call(*command.split(), "--help")
    assert (called.code, called.err) == (0, "")
    assert f"botnet {command}" in called.out
    described = {"data": ("\n  pack", "\n  show"), "train": ("--data", "--resume", "--ema-decay")}
    assert all(text in called.out for text in described.get(command, ("--json",)))


def test_help_imports_only_what_it_needs():
    """No framework for any command's help, and no parser either for that of the program."""
    program = (
        "import sys; from bottleneck_transformer_flax.cli import COMMANDS, main\n"
        "for words in (['--help'], *([command, '--help'] for command in COMMANDS)):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "    unwanted = {'jax', 'flax'}\n"
        "    if len(words) == 1: unwanted |= {'numpy', 'PIL', 'tyro', 'rich.console'}\n"
        "    assert not unwanted & set(sys.modules), (words, unwanted & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_former_benchmark_command_names_the_new_one(fails):
    for arguments in ((), ("attention", "--rounds", "3"), ("--help",)):
        assert "`python -m benchmarks`" in fails(2, "benchmark", *arguments)


def test_the_readme_shows_what_is_printed(call):
    """All but the variant that only tests have."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = readme.split("As `botnet variants` prints it:\n\n```\n")[1].split("```")[0]
    printed = [line.rstrip() for line in call("variants").out.splitlines()]
    assert shown.splitlines() == [line for line in printed if not line.startswith("small ")]


def test_variants_json(call):
    rows = {row["name"]: row for row in call("variants", "--json").json()}
    assert list(rows) == list_variants()
    t3 = {
        "parameters": 30_500_696,
        "published_top1": 0.817,
        "published_parameters": 33_500_000,
        "published_multiply_adds": 7_300_000_000,
    }
    assert rows["botnet_t3"].items() >= t3.items()
    assert rows["botnet_t3"]["config"]["stage_sizes"] == [3, 4, 6, 6]
    (weights,) = rows["sebotnet33ts_256"]["weights"]
    assert (weights["top1"], weights["licence"]) == (0.81156, "apache-2.0")
    assert weights["command"].startswith("botnet import timm/sebotnet33ts")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("columns", ["100", "40"])
def test_what_is_wrong_with_options_is_one_line(fails, monkeypatch, encoding, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    assert fails(2, "train", "--epochz", "3") == (
        "botnet: error: Unrecognized options: --epochz, 3; Perhaps you meant: --epochs INT Passes "
        "over the training images; with --resume, those of the whole run. (default: 32); see "
        "botnet train --help"
    )


def test_a_device_that_is_missing_or_too_small_is_one_line(fails, monkeypatch):
    def missing(*_, **__):
        raise AssertionError

    def exhausted(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nMore.")

    load = "bottleneck_transformer_flax.inference.models.load_pretrained"
    monkeypatch.setattr(load, exhausted)
    message = fails(1, "predict", "x.png")
    assert message.endswith("allocating 5 bytes.); try a smaller --batch-size or --image-size")
    monkeypatch.setattr(load, missing)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(AssertionError):
        main(["predict", "x.png"])
    monkeypatch.setattr(jax, "devices", missing)
    assert "JAX cannot compute on JAX_PLATFORMS=cuda; unset it" in fails(1, "predict", "x.png")


@pytest.mark.parametrize("columns", ["100", "40"])
def test_help_is_no_wider_than_the_terminal(call, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    out = call("train", "--help").out
    assert out.startswith("Train a model on images.\n\nWithout options it trains a small BoTNet")
    assert max(map(len, out.splitlines())) == int(columns)


@pytest.mark.parametrize(
    ("typed", "message", "told"),
    [
        ("--batch-size 0", "batch_size is 0; expected 1", "--batch-size is 0; expected 1"),
        ("--batch_size=0", "choose a smaller batch_size", "choose a smaller --batch_size"),
        ("--epochs 1", "epochs is 1; warmup_epochs is 2", "--epochs is 1; warmup_epochs is 2"),
        ("--epochs 1 --warmup-epochs 2", "warmup_epochs is 2", "--warmup-epochs is 2"),
        ("--seed 1", "cannot change optimization.seed = 1", "cannot change --seed = 1"),
        ("--data x", "the data is x; --data is, data of", "the data is x; --data is, data of"),
        ("train photos", "epochs is 0; train is", "epochs is 0; train is"),
    ],
)
def test_an_option_is_named_as_it_was_typed(typed, message, told):
    assert as_typed(message, typed.split()) == told


def test_a_command_to_type_next_runs_the_program_that_prints_it(tmp_path, monkeypatch):
    package = "bottleneck_transformer_flax"
    installed, other = tmp_path / "bin/botnet", tmp_path / "other/botnet"
    for program in (installed, other):
        program.parent.mkdir()
        program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(installed.parent))
    for started, expected in (
        (str(installed), "botnet"),
        ("bin/botnet", "botnet"),
        ("other/botnet", "other/botnet"),
        (f"lib/{package}/__main__.py", f"{sys.executable} -m {package}"),
        ("pytest", "botnet"),
    ):
        monkeypatch.setattr(sys, "argv", [started])
        assert command_line("predict", "a b.png") == f"{expected} predict 'a b.png'"
