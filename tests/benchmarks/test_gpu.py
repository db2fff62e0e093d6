"""The GPU script finds what is wrong, keeps to its budget, and needs no more than it says."""

import csv
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace

import jax
import pytest

from benchmarks import ROOT, gpu, gpu_attention
from benchmarks.gpu_sections import FULL, SECTIONS, Section
from benchmarks.options import Results
from benchmarks.results import MEASURED, NOT_MEASURED, Row
from bottleneck_transformer_flax.layers.attention_backends.choice import BACKENDS

CHECK = Row(benchmark="attention-correctness", case="c")
MISSING = ("jaxtyping", "tyro", "grain", "simplejpeg", "matplotlib", "beartype", "pyarrow")
"""Modules that machines with a GPU lack."""


def run_small(folder, *arguments):
    """The script in a process, and its workers, that cannot import ``MISSING``."""
    for name in MISSING:
        (folder / f"{name}.py").write_text("raise ImportError('not installed')")
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu", "--small", "--out", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_needs_no_other_package_and_begins_nothing_after_its_budget(tmp_path):
    done = run_small(tmp_path, "--budget-seconds", "0")
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "gpu.csv")
    assert [row["benchmark"] for row in rows] == list(SECTIONS)
    for row in rows:
        assert row["status"].startswith("skipped: ") and row["hardware"] and row["torch"]
        assert f"--only {row['benchmark']} " in row["status"]
    goals = [line for line in done.stdout.splitlines() if "goal ≥" in line]
    assert len(goals) == 3 and all(": not measured" in line for line in goals)


@pytest.mark.slow
def test_small_sizes(tmp_path):
    done = run_small(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read(tmp_path / "gpu.csv")
    assert {row["status"] for row in rows} <= {NOT_MEASURED, f"{NOT_MEASURED}, weights not frozen"}
    assert len(rows) == 2 * 3 * 7 + 2 * 3 + 3 * 2
    for row in rows:
        if row["benchmark"] == "attention-correctness":
            limit = 1e-5 if row["dtype"] == "float32" else 0.05
            assert 0 <= float(row["difference"]) < limit
        else:
            assert float(row["seconds"]) > 0 and row["dtype"] == "bfloat16"
        if row["benchmark"].startswith("t3-"):
            assert float(row["difference"]) < 1e-4


def test_a_section_that_would_end_too_late_is_not_begun_and_one_that_fails_stops_no_other(
    tmp_path, monkeypatch, capsys
):
    """It is the expected end that counts, and a shorter section after a longer one still runs."""
    now, begun = [20.0], []

    def lasting(name, seconds):
        def measured(settings):
            begun.append(name)
            now[0] += seconds
            if name == "first":
                raise RuntimeError("no kernel\nand more")
            return [Row(benchmark=name, case="c")]

        return measured

    sections = {
        "first": Section(lasting("first", 250), 300),
        "second": Section(lasting("second", 999), 201),
        "third": Section(lasting("third", 50), 200),
    }
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    results = Results(Namespace(out=tmp_path, json=False), "gpu")
    gpu.measure_sections(list(sections), FULL, results, 0.0, 470.0)
    rows = results.rows
    assert begun == ["first", "third"]
    assert [row.status for row in rows] == [
        "failed: RuntimeError: no kernel",
        "skipped: 270 of 470 seconds had passed, and it may take 201; "
        "--only second measures it in a call of its own",
        MEASURED,
    ]
    assert [row["status"] for row in read(tmp_path / "gpu.csv")] == [row.status for row in rows]
    assert "RuntimeError: no kernel" in capsys.readouterr().err


def peer_rows(ratio, status=MEASURED, section="t3-inference"):
    row = Row(benchmark=section, case="c", status=status, batch_size=256)
    return [
        replace(row, implementation="ours", relative_time=1.0),
        replace(row, implementation="timm-compiled", relative_time=ratio),
    ]


@pytest.mark.parametrize(
    ("rows", "ending"),
    [
        ([], ": not measured"),
        (peer_rows(1.2), ": met, 1.20× at batch 256 (measured)"),
        (peer_rows(1.19), ": not met, 1.19× at batch 256 (measured)"),
        (peer_rows(1.3, NOT_MEASURED), ": not measured"),
        (peer_rows(None, "failed: differs"), ": not measured (failed: differs)"),
        (peer_rows(9.0, section="t3-training"), ": not measured"),
    ],
)
def test_goals(rows, ending):
    assert [(goal.section, goal.ratio) for goal in gpu.GOALS] == (
        [("t3-inference", 1.2), ("t3-training", 1.2), ("t7-efficientnet", 1.64)]
    )
    line = gpu.goal_line(gpu.GOALS[0], rows)
    assert line == f"T3 inference in bfloat16, timm compiled, goal ≥ 1.2×{ending}"


def test_judgement_of_differences():
    own = [1e-3, 1e-2]
    judge = gpu_attention.judge
    assert judge(("reference", "bfloat16"), [1.0, 1.0], own) == ["", ""]
    assert judge(("fused", "float32"), [1e-6, 9e-6], own) == ["", ""]
    assert all(judge(("fused", "float32"), [2e-5, float("nan")], own))
    # Four times the reference's own, but at least four roundings of the result.
    assert judge(("fused", "bfloat16"), [0.015, 0.039], own) == ["", ""]
    assert all(judge(("fused", "bfloat16"), [0.016, 0.041], own))


@pytest.mark.parametrize(
    ("wrong", "quantities"),
    [
        (None, set()),
        ("output", {"output", "output without gradients"}),
        ("values", {"gradient of values"}),
        ("alone", {"output without gradients"}),
    ],
)
def test_a_wrong_kernel_is_found(monkeypatch, wrong, quantities):
    @jax.custom_vjp
    def right_when_differentiated(output):
        return 1.1 * output

    right_when_differentiated.defvjp(lambda output: (output, None), lambda _, given: (given,))

    def kernel(query, key, value, height_table, width_table):
        output = BACKENDS["reference"](query, key, value, height_table, width_table)
        if wrong == "values":
            # Right by its output alone.
            return jax.lax.stop_gradient(output - 2 * value) + 2 * value
        if wrong == "alone":
            return right_when_differentiated(output)
        return output * (1.1 if wrong == "output" else 1)

    monkeypatch.setitem(BACKENDS, "fused", kernel)
    rows = gpu_attention.check([(2, 3)], 2, 16, CHECK)
    assert len(rows) == 3 * len(gpu_attention.QUANTITIES)
    failed = {(row.implementation, row.dtype, row.quantity) for row in rows if row.failed}
    expected = {("fused", dtype, each) for dtype in ("float32", "bfloat16") for each in quantities}
    assert expected <= failed
    assert wrong not in (None, "alone") or failed == expected
    assert all(name == "fused" for name, _, _ in failed)
    assert gpu.correctness_line(rows).endswith(": met") == (wrong is None)
