"""Every command runs at a tiny size, and bad usage is told in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from benchmarks import ROOT, data, networks, start_up
from benchmarks.figure import draw
from benchmarks.implementations import Implementation
from benchmarks.results import Row, table_text
from benchmarks.workers import WorkerError
from training.tiny import write_data

ROW = Row(benchmark="inference", case="small", height=8, width=8, batch_size=1)


def timed(name, **changes):
    return replace(ROW, **{"implementation": name, "seconds": 0.5, "per_second": 2.0} | changes)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "usage: python -m benchmarks"),
        (("speed",), "usage: python -m benchmarks"),
        (("inference", "--rounds", "0"), "'0' is not an integer of at least 1"),
        (("training", "--implementations", "onnxruntime"), "invalid choice: 'onnxruntime'"),
        (("attention", "--variant", "resnet50"), "resnet50 has no attention in its last stage"),
        (("inference", "--out", "file/folder"), "--out file/folder cannot be made"),
        (("gpu", "--out", "x"), "jax finds no GPU"),
    ],
)
def test_bad_usage_is_told(call, tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    called = call(*arguments)
    assert called.code == 2
    assert word in called.err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_results_are_written_after_every_case(call, tmp_path, monkeypatch, read_csv):
    def measure(case, names, worker, pace, *, say):
        if case.size == (7, 7):
            raise WorkerError("timm: its process ended with exit code -9")
        return [timed(name, height=5) for name in names]

    monkeypatch.setattr(networks, "measure", measure)
    chosen = ("--grids", "5", "7", "--implementations", "ours", "timm", "--out", tmp_path)
    called = call("attention", *chosen)
    assert called.code == 1
    assert called.err == "benchmarks: error: timm: its process ended with exit code -9\n"
    rows = read_csv(tmp_path / "attention.csv")
    assert [row["height"] + row["implementation"] for row in rows] == ["5ours", "5timm"]
    assert all(row["hardware"] and row["torch"] and row["jax"] and row["date"] for row in rows)
    assert (tmp_path / "attention.png").stat().st_size > 0


def test_who_is_not_installed_is_skipped_and_who_fails_is_an_error(call, tmp_path, monkeypatch):
    def measure(case, names, worker, pace, *, say):
        assert names == ["ours", "plain-loop"]
        failed = replace(ROW, implementation="plain-loop", status="failed: no such thing")
        return [timed("ours"), failed]

    monkeypatch.setattr(data, "measure", measure)
    monkeypatch.setattr(Implementation, "missing", lambda reader: list(reader.packages))
    chosen = ("--implementations", "ours", "timm", "plain-loop", "--policies", "none", "--json")
    write_data(tmp_path / "images")
    called = call("data", tmp_path / "images", *chosen, "--batch-size", "2", "--out", tmp_path)
    assert called.code == 1
    assert called.err == "benchmarks: error: inference: failed: no such thing\n"
    lines = [json.loads(line) for line in called.out.splitlines()]
    assert [line["status"] for line in lines] == [
        "measured",
        "failed: no such thing",
        "skipped: needs torch and timm (pip install torch timm)",
    ]


def test_the_table_shows_what_there_is():
    rows = [timed("ours", memory_bytes=2_000_000), replace(ROW, status="failed: why")]
    lines = [line.split() for line in table_text(rows).splitlines()]
    assert lines[0][-5:] == ["per", "second", "ms", "MB", "status"]
    assert lines[1][-4:] == ["2", "500", "2", "measured"]
    assert lines[2][-2:] == ["failed:", "why"]
    assert not any("temporaries" in line for line in lines)


def test_few_cases_are_bars_and_many_are_lines():
    bars = draw([timed("a"), timed("b", per_second=1.0), timed("a", batch_size=4)]).axes
    assert [[bar.get_width() for bar in axes.patches] for axes in bars] == [[2.0, 1.0], [2.0]]
    grids = [timed("a", height=side, memory_bytes=side * 10**6) for side in (4, 8, 16, 32)]
    (times,), (memory,) = (axes.lines for axes in draw(grids).axes)
    assert list(times.get_ydata()) == [500.0] * 4
    assert list(memory.get_ydata()) == [4, 8, 16, 32]
    (rates,) = draw([timed("a", batch_size=size) for size in (1, 2, 4, 8)]).axes[0].lines
    assert list(rates.get_xdata()) == [1, 2, 4, 8] and list(rates.get_ydata()) == [2.0] * 4


def test_start_is_the_time_to_the_first_line():
    def seconds(program):
        begun = time.perf_counter()
        first = start_up.seconds_to_first_line((sys.executable, "-c", program), os.environ)
        return first, time.perf_counter() - begun

    first, whole = seconds("import time; print(1, flush=True); time.sleep(1); print(2)")
    assert first < whole - 0.9
    first, _ = seconds("import time; time.sleep(0.5)")
    assert first > 0.5
    with pytest.raises(subprocess.CalledProcessError):
        seconds("raise SystemExit(3)")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments", "rows"),
    [
        ("attention", ("--grids", "3", "--implementations", "ours", "timm"), 2),
        (
            "inference",
            ("--variant", "botnet_tiny", "--batch-sizes", "1", "--implementations", "ours"),
            1,
        ),
        ("data", ("--policies", "none", "--num-workers", "1", "--batch-size", "2"), 3),
        ("start-up", ("--variant", "botnet_tiny"), 7),
    ],
)
def test_a_command_measures(call, tmp_path, command, arguments, rows, read_csv):
    called = call(command, *arguments, "--rounds", "1", "--out", tmp_path)
    assert called.code == 0, called
    assert f"written: {tmp_path / command}.csv" in called.out
    assert "measured on hardware" in called.out
    found = read_csv(tmp_path / f"{command}.csv")
    assert len(found) == rows and {row["status"] for row in found} == {"measured"}
    assert all(float(row["seconds"]) > 0 for row in found)


@pytest.mark.slow
@pytest.mark.parametrize("delay_seconds", [0.5, 4.0, 8.0])
def test_ctrl_c_leaves_no_process_and_no_folder(tmp_path, delay_seconds, wait_for_states):
    """While its processes start, or take turns; Ctrl-C reaches all of them."""
    (tmp_path / "temporary").mkdir()
    command = ("inference", "--variant", "botnet_tiny", "--implementations", "ours")
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *command, "--rounds", "9999", "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        start_new_session=True,
    )
    while not list((tmp_path / "temporary").iterdir()):
        time.sleep(0.05)
    time.sleep(delay_seconds)
    os.killpg(process.pid, signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert (process.returncode, out, err) == (1, "", "benchmarks: error: interrupted\n")
    assert list((tmp_path / "temporary").iterdir()) == []
    wait_for_states(process.pid, set())
