"""The GPU's script runs on a CPU at tiny sizes, needs what it says, and loses nothing it knows."""

import csv
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks import gpu
from benchmarks.gpu_measure import Row
from benchmarks.gpu_settings import FULL, MEASURED, NOT_MEASURED
from benchmarks.gpu_table import table_text

ROOT = Path(gpu.__file__).parent.parent
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

root, hidden, arguments = sys.argv[1], set(sys.argv[2].split(",")), sys.argv[3:]
package = "bottleneck_transformer_flax"
sys.path = [folder for folder in sys.path if not (pathlib.Path(folder) / package).is_dir()]
sys.meta_path = [
    Without(finder, hidden) for finder in sys.meta_path if "editable" not in repr(finder)
]
for name in ("jaxtyping", "tyro", package):
    assert importlib.util.find_spec(name) is None, f"{name} can still be imported"
sys.path.insert(0, root)
sys.argv = ["benchmarks", "gpu", *arguments]
try:
    runpy.run_module("benchmarks", run_name="__main__")
finally:
    package_file = pathlib.Path(sys.modules[package].__file__)
    assert package_file.is_relative_to(pathlib.Path(root) / "src")
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
    assert {"jaxtyping", "tyro", "matplotlib", "beartype"} <= hidden
    assert not {"jax", "flax", "optax", "torch", "timm", "numpy", "safetensors"} & hidden
    command = [sys.executable, "-c", RUN_WITHOUT, str(ROOT), ",".join(sorted(hidden))]
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
    for row in rows:
        assert row["status"].startswith("skipped: ") and ", of 0, " in row["status"]
        assert f"--only {row['section']} " in row["status"]
    goals = [line for line in done.stdout.splitlines() if "goal ≥" in line]
    assert len(goals) == 3 and all(line.endswith(": not measured") for line in goals)


def test_needs_no_other_package_and_begins_nothing_after_the_budget(tmp_path):
    done = run_without_other_packages(tmp_path, "--small", "--budget-seconds", "0")
    without_budget(done, tmp_path)


def test_this_checkout_is_measured_whatever_is_installed(tmp_path):
    other = tmp_path / "other" / "bottleneck_transformer_flax"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('another version')")
    command = [sys.executable, "-m", "benchmarks", "gpu", "--help"]
    environment = os.environ | {"PYTHONPATH": str(other.parent)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=environment, cwd=ROOT
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
        float(row[column])
        for row in rows
        if row["section"].startswith("t3-") and row["implementation"] == "ours"
        for column in ("largest_difference", "float32_difference")
    ]
    assert len(differences) == 4 and max(differences) < 1e-4
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
        gpu.run(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_full_sizes_without_a_gpu_are_refused_in_one_line(tmp_path, capsys):
    assert gpu.run(["--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("gpu.py: error: jax finds no GPU") and said.err.count("\n") == 1
    assert "--small" in said.err and said.out == ""
    assert not (tmp_path / "out").exists()


def test_a_section_that_would_end_too_late_is_not_begun(tmp_path, monkeypatch):
    """It is the expected end that counts, and a shorter section after a longer one still runs."""
    now, began = [20.0], []

    def lasting(name, seconds):
        def measured(settings):
            began.append(name)
            now[0] += seconds
            return [Row(section=name, case="c", quantity="q", status=MEASURED)]

        return measured

    sections = {
        "first": gpu.Section(lasting("first", 250), 300),
        "second": gpu.Section(lasting("second", 999), 201),
        "third": gpu.Section(lasting("third", 50), 200),
    }
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpu, "free_memory", lambda: None)
    rows = gpu.measure(list(sections), FULL, 0.0, 470.0, tmp_path)
    assert began == ["first", "third"]
    assert rows[1].status == (
        "skipped: 270 seconds had passed, of 470, and it may take 201; "
        "--only second measures it in a call of its own"
    )
    assert [row.status for row in rows if row.section != "second"] == [MEASURED, MEASURED]


def test_what_matters_more_is_begun_in_time():
    expected = {name: section.expected_seconds for name, section in gpu.SECTIONS.items()}
    assert list(expected)[-2:] == ["t7-efficientnet", "t3-training"]
    assert gpu.BUDGET_SECONDS == 470
    importing = 30
    assert importing + sum(expected.values()) - expected["t3-training"] <= gpu.BUDGET_SECONDS


def test_a_file_in_the_place_of_the_folder_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert gpu.run(["--small", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err == f"gpu.py: error: {tmp_path / 'file'}: File exists\n"


def test_a_section_that_fails_keeps_no_other_from_it(tmp_path, monkeypatch, capsys):
    seen = []

    def fails(settings):
        raise RuntimeError("no kernel\nand more")

    def reads(settings):
        seen.extend(read_rows(tmp_path))
        return [Row(section="second", case="a case", quantity="time", status=NOT_MEASURED)]

    sections = {"first": fails, "second": reads, "third": reads}
    monkeypatch.setattr(
        gpu, "SECTIONS", {name: gpu.Section(each, 1) for name, each in sections.items()}
    )
    monkeypatch.setattr(gpu, "free_memory", lambda: None)
    assert gpu.run(["--small", "--out", str(tmp_path), "--only", "second", "first"]) == 1
    # What was known before the second began, the first in its place.
    assert [row["status"] for row in seen] == ["failed: RuntimeError: no kernel", "not run"]
    statuses = [row["status"] for row in read_rows(tmp_path)]
    assert statuses == ["failed: RuntimeError: no kernel", NOT_MEASURED]
    assert "RuntimeError: no kernel" in capsys.readouterr().err


def test_the_table_shows_what_there_is():
    row = Row(section="s", case="14 × 14", quantity="forward", implementation="fused")
    lines = table_text([replace(row, seconds=0.0125, memory_bytes=2_000_000), row]).splitlines()
    assert lines[0].split("  ")[0] == "case" and "compile s" not in lines[0]
    said = [" ".join(line.split()) for line in lines[1:]]
    assert said == [
        "14 × 14 forward fused 12.500 2 not yet measured",
        "14 × 14 forward fused not yet measured",
    ]
