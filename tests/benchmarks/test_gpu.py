"""The GPU's script runs on a CPU at tiny sizes, needs what it says, and loses nothing it knows."""

import csv
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import gpu
import gpu_environment
import gpu_measure
import gpu_networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu_measure import Row, Work, compile_in, program_bytes, time_in_turns
from gpu_peers import Peer
from gpu_settings import MEASURED, NOT_MEASURED, SMALL
from gpu_table import table_text
from packaging.requirements import Requirement

from bottleneck_transformer_flax import axes
from bottleneck_transformer_flax.errors import ConfigError

SCRIPT = Path(gpu.__file__)
NEEDED = ("jax", "flax", "optax", "torch", "timm")
COLUMNS = [field.name for field in fields(Row)]

# Runs the script as if only some packages were installed, and this one not at all.
RUN_WITHOUT = """
import importlib.util, pathlib, runpy, sys

class Without:
    def __init__(self, finder, hidden):
        self._finder, self._hidden = finder, hidden
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in self._hidden
        return None if hidden else self._finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self._finder, name)

script, hidden, arguments = sys.argv[1], set(sys.argv[2].split(",")), sys.argv[3:]
package = "bottleneck_transformer_flax"
sys.path = [folder for folder in sys.path if not (pathlib.Path(folder) / package).is_dir()]
sys.meta_path = [
    Without(finder, hidden) for finder in sys.meta_path if "editable" not in repr(finder)
]
for name in ("jaxtyping", "grain", package):
    assert importlib.util.find_spec(name) is None, f"{name} can still be imported"
sys.path.insert(0, str(pathlib.Path(script).parent))
sys.argv = [script, *arguments]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    package_file = pathlib.Path(sys.modules[package].__file__)
    assert package_file.is_relative_to(pathlib.Path(script).parent.parent / "src")
"""


def hidden_modules():
    """What is installed here and neither needed nor brought by what is."""
    brought, todo = set(), list(NEEDED)
    while todo:
        name = canonical(todo.pop())
        if name in brought:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        brought.add(name)
        parsed = map(Requirement, requirements)
        todo += [
            each.name for each in parsed if not each.marker or each.marker.evaluate({"extra": ""})
        ]
    return {
        module
        for module, owners in packages_distributions().items()
        if not brought & set(map(canonical, owners))
        and module not in ("bottleneck_transformer_flax", "_distutils_hack")
    }


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def run_without_other_packages(out, *arguments):
    """The script in a process that has jax, flax, optax, torch and timm, and what these bring."""
    hidden = hidden_modules()
    assert {"jaxtyping", "grain", "tyro", "matplotlib", "beartype"} <= hidden
    assert not {"jax", "flax", "optax", "torch", "timm", "numpy", "safetensors"} & hidden
    command = [sys.executable, "-c", RUN_WITHOUT, str(SCRIPT), ",".join(sorted(hidden))]
    return subprocess.run(
        [*command, "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def read_rows(folder):
    with (folder / "gpu.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames[: len(COLUMNS)] == COLUMNS
    assert {"hardware", "python", "jax", "torch", "timm", "date"} <= set(reader.fieldnames)
    return rows


def without_budget(done, out):
    assert done.returncode == 0, done.stderr
    rows = read_rows(out)
    assert [row["section"] for row in rows] == list(gpu.SECTIONS)
    assert {row["status"] for row in rows} == {"skipped: the budget of 0 seconds was spent"}
    goals = [line for line in done.stdout.splitlines() if "goal ≥" in line]
    assert len(goals) == 3 and all(line.endswith(": not measured") for line in goals)


def test_needs_no_other_package_and_begins_nothing_after_the_budget(tmp_path):
    done = run_without_other_packages(tmp_path, "--small", "--budget-seconds", "0")
    without_budget(done, tmp_path)


def test_this_checkout_is_measured_whatever_is_installed(tmp_path):
    other = tmp_path / "other" / "bottleneck_transformer_flax"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('another version')")
    command = [sys.executable, str(SCRIPT), "--help"]
    environment = os.environ | {"PYTHONPATH": str(other.parent)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_small_sizes(tmp_path):
    done = run_without_other_packages(tmp_path, "--small")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(tmp_path)
    assert {row["status"] for row in rows} == {NOT_MEASURED}
    assert len(rows) == 2 * 3 * 7 + 2 * 3 + 3 * 2
    assert {(row["section"], row["implementation"]) for row in rows} == {
        ("attention-correctness", "fused"),
        ("attention-correctness", "reference"),
        *(("attention-speed", name) for name in ("fused", "reference", "blockwise")),
        *((name, "ours") for name in ("t3-inference", "t3-training", "t7-efficientnet")),
        ("t3-inference", "timm"),
        ("t3-training", "timm"),
        ("t7-efficientnet", "timm"),
    }
    for row in rows:
        if row["section"] == "attention-correctness":
            limit = 1e-5 if row["dtype"] == "float32" else 0.05
            assert 0 <= float(row["largest_difference"]) < limit
        else:
            assert float(row["seconds"]) > 0 and int(row["rounds"]) == 2
    differences = [
        float(row["largest_difference"])
        for row in rows
        if row["section"].startswith("t3-") and row["implementation"] == "ours"
    ]
    assert len(differences) == 2 and max(differences) < 1e-3
    goals = [line for line in done.stdout.splitlines() if "goal ≥" in line]
    assert len(goals) == 3
    assert all(": not measured" in line for line in goals)
    assert "forward and gradients: not measured" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--out"),
        (["--out", "x", "--budget-seconds", "soon"], "'soon' is no number of seconds from 0 on"),
        (["--out", "x", "--budget-seconds", "-1"], "'-1' is no number of seconds from 0 on"),
        (["--out", "x", "--budget-seconds", "nan"], "'nan' is no number of seconds from 0 on"),
        (["--out", "x", "--only", "t8"], "invalid choice: 't8'"),
    ],
)
def test_bad_options(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_full_sizes_without_a_gpu_are_refused_in_one_line(tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("gpu.py: error: jax finds no GPU") and said.err.count("\n") == 1
    assert "--small" in said.err and said.out == ""
    assert not (tmp_path / "out").exists()


def test_a_torch_without_a_gpu_is_told(monkeypatch):
    monkeypatch.setattr(gpu_networks.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no GPU"):
        gpu_networks.gpu_peers.torch_device(needs_gpu=True)


def test_a_file_in_the_place_of_the_folder_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert gpu.main(["--small", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err == f"gpu.py: error: {tmp_path / 'file'}: File exists\n"


def test_a_section_that_fails_keeps_no_other_from_it(tmp_path, monkeypatch, capsys):
    seen = []

    def fails(settings):
        raise RuntimeError("no kernel\nand more")

    def reads(settings):
        seen.extend(read_rows(tmp_path))
        return [Row(section="second", case="a case", quantity="time", status=NOT_MEASURED)]

    monkeypatch.setattr(gpu, "SECTIONS", {"first": fails, "second": reads, "third": reads})
    monkeypatch.setattr(gpu, "free_memory", lambda: None)
    assert gpu.main(["--small", "--out", str(tmp_path), "--only", "second", "first"]) == 1
    # What was known before the second began, the first in its place.
    assert [row["status"] for row in seen] == ["failed: RuntimeError: no kernel", "not run"]
    statuses = [row["status"] for row in read_rows(tmp_path)]
    assert statuses == ["failed: RuntimeError: no kernel", NOT_MEASURED]
    assert "RuntimeError: no kernel" in capsys.readouterr().err


def work(name, log):
    return Work(name, lambda: log.append(name), lambda _: log.append("wait"), lambda: 7, 1.5)


def test_implementations_take_turns_of_several_calls():
    log = []
    row = Row(section="s", case="c", quantity="q", batch_size=4, status=NOT_MEASURED)
    rows = time_in_turns(
        [work("ours", log), work("peer", log)], replace(SMALL, rounds=3), row, {"ours": 0.25}
    )
    turn = ["ours", "ours", "wait", "peer", "peer", "wait"]
    assert log[-len(3 * turn) :] == 3 * turn
    assert [(each.implementation, each.largest_difference) for each in rows] == [
        ("ours", 0.25),
        ("peer", None),
    ]
    for each in rows:
        assert (each.rounds, each.calls, each.memory_bytes, each.compile_seconds) == (3, 6, 7, 1.5)
        assert each.per_second == pytest.approx(4 / each.seconds)
        assert each.relative_time == pytest.approx(each.seconds / rows[0].seconds)


def test_seconds_are_those_of_one_call(monkeypatch):
    now = [0.0]

    def sleeping(name, seconds):
        def start():
            now[0] += seconds

        return Work(name, start, lambda _: None, lambda: None, 0.0)

    monkeypatch.setattr(gpu_measure.time, "perf_counter", lambda: now[0])
    row = Row(section="s", case="c", quantity="q", batch_size=1)
    works = [sleeping("ours", 0.1), sleeping("peer", 0.25)]
    ours, peer = time_in_turns(works, replace(SMALL, turn_seconds=1.0), row)
    assert (ours.seconds, peer.seconds) == pytest.approx((0.1, 0.25))
    assert peer.relative_time == pytest.approx(2.5)
    assert (ours.calls, peer.calls) == (2 * 10, 2 * 4)


def test_a_program_needs_its_arguments_and_results():
    with ThreadPoolExecutor(1) as pool:
        shape = jax.ShapeDtypeStruct((3, 5), jnp.float32)
        program = compile_in(pool, jax.jit(lambda x: (x + 1, x * 2)), shape).result()
    assert program_bytes(program.call) >= 3 * (3 * 5 * 4)


def peer_rows(ratio, status=MEASURED, batch_size=256):
    row = Row(section="t3-inference", case="c", quantity="q", status=status, batch_size=batch_size)
    return [
        replace(row, implementation="ours", relative_time=1.0),
        replace(row, implementation="timm", relative_time=ratio),
    ]


@pytest.mark.parametrize(
    ("rows", "ending"),
    [
        ([], ": not measured"),
        (peer_rows(1.2), ": met, 1.20×"),
        (peer_rows(1.19), ": not met, 1.19×"),
        (peer_rows(1.3, batch_size=128), ": met, 1.30× at batch 128"),
        (peer_rows(1.3, NOT_MEASURED), ": not measured (a trial at small sizes)"),
        (peer_rows(1.3, "failed: differs"), ": not met, 1.30× (failed: differs)"),
        ([replace(peer_rows(9.0)[0], section="t3-training")], ": not measured"),
    ],
)
def test_goals(rows, ending):
    line = gpu.goal_line(gpu.GOALS[0], rows, 256)
    assert line == f"T3 inference in bfloat16, timm compiled, goal ≥ 1.2×{ending}"


def test_the_goals_are_those_asked_for():
    assert [(goal.section, goal.ratio) for goal in gpu.GOALS] == [
        ("t3-inference", 1.2),
        ("t3-training", 1.2),
        ("t7-efficientnet", 1.64),
    ]


def test_correctness_is_met_only_where_all_is_right():
    row = Row(section="attention-correctness", case="c", quantity="q", status=MEASURED)
    wrong = replace(row, status="failed: differs by more than 1e-4")
    assert gpu.correctness_line([row, row]).endswith(": met")
    assert gpu.correctness_line([row, wrong]).endswith(": not met, 1 of 2 comparisons failed")
    assert gpu.correctness_line([row, replace(row, status=NOT_MEASURED)]).endswith("not measured")
    assert gpu.correctness_line([]).endswith(": not measured")


def test_other_outputs_are_told(capsys):
    row = Row(section="t3-inference", case="c", quantity="q", status=NOT_MEASURED, batch_size=1)
    ours, theirs = np.array([1.0, -2.0]), np.array([1.0, -2.01])

    def statuses(outputs):
        peer = Peer(work("timm", []), theirs)
        rows = gpu_networks._compare_and_time(work("ours", []), outputs, peer, SMALL, row)
        return {each.status for each in rows}

    assert statuses(theirs + 1e-6) == {NOT_MEASURED}
    for outputs in (ours, np.full(2, np.nan)):
        (status,) = statuses(outputs)
        assert status.startswith("failed: outputs differ by")


def test_half_the_batch_where_it_does_not_fit(monkeypatch, capsys):
    tried = []

    def measure(batch_size, settings):
        tried.append(batch_size)
        if batch_size > 3:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return [batch_size]

    monkeypatch.setattr(gpu_networks, "free_memory", lambda: None)
    assert gpu_networks._with_memory(measure, 12, SMALL) == [3]
    assert tried == [12, 6, 3]
    assert "a batch of 12 does not fit into memory; trying 6" in capsys.readouterr().out


def test_only_memory_is_worth_a_smaller_batch():
    def measure(batch_size, settings):
        raise RuntimeError(f"wrong at {batch_size}")

    with pytest.raises(RuntimeError, match="wrong at 8"):
        gpu_networks._with_memory(measure, 8, SMALL)


def test_the_table_shows_what_there_is():
    row = Row(section="s", case="14 × 14", quantity="forward", implementation="fused")
    lines = table_text([replace(row, seconds=0.0125, memory_bytes=2_000_000), row]).splitlines()
    assert lines[0].split("  ")[0] == "case" and "compile s" not in lines[0]
    said = [" ".join(line.split()) for line in lines[1:]]
    assert said == [
        "14 × 14 forward fused 12.500 2 not yet measured",
        "14 × 14 forward fused not yet measured",
    ]


def test_the_stand_in_has_what_axes_takes():
    module = gpu_environment.jaxtyping_stand_in()
    assert {*gpu_environment.ARRAY_TYPES, "Array"} == set(axes.__all__)
    for name in gpu_environment.ARRAY_TYPES:
        assert getattr(module, name)[jax.Array | np.ndarray, "b h"] == jax.Array | np.ndarray
