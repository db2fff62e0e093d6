"""The GPU script finds what is wrong, and needs no more than it says."""

import os
import subprocess
import sys
from argparse import Namespace

import jax
import pytest

from benchmarks import ROOT, gpu, gpu_attention
from benchmarks.gpu_sections import FULL
from benchmarks.options import Results
from benchmarks.results import MEASURED, NOT_MEASURED, Row
from bottleneck_transformer_flax.layers.attention_backends.choice import BACKENDS

CHECK = Row(benchmark="attention-correctness", case="c")
MISSING = ("jaxtyping", "tyro", "matplotlib", "pyarrow")
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


def test_it_needs_no_other_package(tmp_path):
    done = run_small(tmp_path, "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_small_sizes(tmp_path, read_csv, monkeypatch):
    # JAX itself promotes dtypes where it lowers the gradient of fused attention in bfloat16.
    monkeypatch.setenv("JAX_NUMPY_DTYPE_PROMOTION", "standard")
    done = run_small(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_csv(tmp_path / "gpu.csv")
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


def test_a_section_that_fails_stops_no_other(tmp_path, capsys, read_csv):
    def failing(settings):
        raise RuntimeError("no kernel\nand more")

    sections = {"first": failing, "second": lambda settings: [Row(benchmark="second", case="c")]}
    results = Results(Namespace(out=tmp_path, json=False), "gpu")
    gpu.measure_sections(sections, FULL, results)
    assert [row["status"] for row in read_csv(tmp_path / "gpu.csv")] == [
        "failed: RuntimeError: no kernel",
        MEASURED,
    ]
    assert results.finish() == 1
    assert "gpu.py" in capsys.readouterr().err


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
