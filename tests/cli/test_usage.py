"""Commands, help and the list of variants; bad usage is one line, without a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bottleneck_transformer_flax import list_variants
from bottleneck_transformer_flax.cli import COMMANDS
from bottleneck_transformer_flax.cli.options import command_line


@pytest.mark.parametrize("arguments", [(), ("data",)])
def test_no_command_is_help_and_exit_2(call, arguments):
    called = call(*arguments)
    assert (called.code, called.out) == (2, "")
    assert called.err.startswith(" ".join(["usage: botnet", *arguments, "COMMAND"]))


@pytest.mark.parametrize("name", ["tain", "Train", "--colour", "", "trainer --help"])
def test_an_unknown_command_names_the_nearest_and_all_others(fails, name):
    message = fails(2, name)
    assert repr(name) in message
    assert "did you mean 'train'" in message or name in ("--colour", "")
    assert all(command in message for command in COMMANDS)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_commands(call, option):
    called = call(option)
    assert (called.code, called.err) == (0, "")
    assert all(f"\n  {name}  " in called.out for name in ("evaluate", "variants"))
    assert all(f"\n  {name:<8}  {summary}\n" in called.out for name, summary in COMMANDS.items())


@pytest.mark.parametrize("command", [*COMMANDS, "data pack", "data show"])
def test_a_commands_help_describes_its_options(call, command):
    called = call(*command.split(), "--help")
    assert (called.code, called.err) == (0, "")
    assert f"botnet {command}" in called.out
    assert "--json" in called.out or command == "data"
    if command == "train":
        for option in ("--data", "--resume", "--skip-bad-images", "--epochs", "--ema-decay"):
            assert option in called.out


def test_help_imports_no_jax_and_that_of_the_program_no_numpy():
    program = (
        "import sys; from bottleneck_transformer_flax.cli import COMMANDS, main\n"
        "for words in (['--help'], *([command, '--help'] for command in COMMANDS)):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "    assert not {'jax', 'flax'} & set(sys.modules), f'{words} imported jax'\n"
        "    assert len(words) > 1 or 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(call):
    called = call("--version")
    assert called.code == 0
    assert called.out.startswith("botnet 1.")


def test_the_former_benchmark_command_names_the_new_one(fails):
    for arguments in ((), ("attention", "--rounds", "3"), ("--help",)):
        assert "`python -m benchmarks`" in fails(2, "benchmark", *arguments)


def test_variants_table(call):
    called = call("variants")
    assert called.code == 0
    table, weights = called.out.split("\nPublished weights:\n")
    rows = {line.split()[0]: line for line in table.splitlines()}
    for name in list_variants():
        if name != "small":
            assert name in rows
    assert "25,557,032" in rows["resnet50"]
    assert "7.23 B" in rows["botnet_t3"]
    assert "33.5 M" in rows["botnet_t3"]
    assert "45.63 B" in rows["botnet_t7"]
    assert "top-1 79.256 %, top-5 94.528 % of ImageNet-1k; apache-2.0" in weights
    assert "botnet import timm/botnet26t_256.c1_in1k --out botnet26t_256" in weights.splitlines()[5]


def test_the_readme_shows_what_is_printed(call):
    def lines(text):
        return [line.rstrip() for line in text.splitlines()]

    def without_the_small_one(line):
        return line.partition(" ")[0] != "small"

    readme = Path(__file__).parents[2] / "README.md"
    shown = readme.read_text(encoding="utf-8").split("As `botnet variants` prints it:\n\n```\n")[1]
    printed = filter(without_the_small_one, lines(call("variants").out))
    assert lines(shown.split("```")[0]) == list(printed)


def test_variants_json(call):
    called = call("variants", "--json")
    assert called.code == 0
    rows = {row["name"]: row for row in json.loads(called.out)}
    assert list(rows) == list_variants()
    assert rows["botnet_t3"]["parameters"] == 30_500_696
    assert rows["botnet_t3"]["config"]["stage_sizes"] == [3, 4, 6, 6]
    for row in rows.values():
        assert isinstance(row["multiply_adds"], int)
        assert row["source"]
    weights = {name: row["weights"] for name, row in rows.items() if row["weights"]}
    assert list(weights) == [
        "botnet_s1_50",
        "botnet_tiny",
        "botnet26t_256",
        "sebotnet33ts_256",
        "eca_botnext26ts_256",
    ]
    assert weights["botnet_s1_50"][0]["licence"] == "mit"
    assert weights["sebotnet33ts_256"][0]["top1"] == 0.81156
    assert rows["botnet_t3"]["published_top1"] == 0.817
    assert rows["botnet_t3"]["published_parameters"] == 33_500_000
    assert rows["botnet_t3"]["published_multiply_adds"] == 7_300_000_000
    assert weights["sebotnet33ts_256"][0]["command"].startswith("botnet import timm/sebotnet33ts")


def test_variants_takes_nothing_else(call):
    assert call("variants", "surplus").code == 2


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("columns", ["100", "40"])
def test_what_is_wrong_with_options_is_one_line(fails, monkeypatch, encoding, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    assert fails(2, "train", "--epochz", "3") == (
        "botnet: error: Unrecognized options: --epochz, 3; Perhaps you meant: --epochs INT Passes "
        "over the training images. (default: 32); For full helptext, run botnet train --help"
    )


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
