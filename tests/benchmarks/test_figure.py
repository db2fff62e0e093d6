"""The benchmark's pictures show what was measured, as bars of a few cases or lines of many."""

import pytest

from benchmarks.figure import draw_benchmark, plot_benchmark
from bottleneck_transformer_flax.errors import DataError


def row(name, rate, *, height=224, batch_size=8, workload="inference", memory=5_000_000):
    return {
        "workload": workload,
        "variant": "botnet_t3",
        "height": height,
        "width": height,
        "batch_size": batch_size,
        "implementation": name,
        "images_per_second": rate,
        "p50_seconds": batch_size / rate,
        "peak_memory_bytes": memory,
    }


def lines(axes):
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_few_cases_are_bars():
    rows = [row(name, rate, batch_size=b) for b in (1, 8) for name, rate in (("a", 4), ("b", 2))]
    first, second = draw_benchmark(rows).axes
    assert [patch.get_width() for patch in first.patches] == [4, 2]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert "batch 8" in second.get_title(loc="left")


def test_many_grids_are_lines_of_time_and_memory():
    rows = [
        row("a", 2.0, height=side, batch_size=1, workload="attention", memory=side * 10**6)
        for side in (14, 28, 56, 112)
    ]
    rows.append(row("b", 4.0, height=14, batch_size=1, workload="attention", memory=None))
    time, memory = draw_benchmark(rows).axes
    assert lines(time) == {
        "a": [(side**2, 500) for side in (14, 28, 56, 112)],
        "b": [(196, 250)],
    }
    assert lines(memory) == {"a": [(side**2, side) for side in (14, 28, 56, 112)]}
    assert time.get_title(loc="left") == "time of a call (ms)"
    assert time.get_xlabel() == "positions"


def test_many_batches_are_lines_of_throughput():
    rows = [row("a", 3.0 * size, batch_size=size) for size in (1, 2, 4, 8)]
    throughput, _ = draw_benchmark(rows).axes
    assert lines(throughput) == {"a": [(size, 3 * size) for size in (1, 2, 4, 8)]}
    assert throughput.get_title(loc="left") == "images a second"
    assert throughput.get_xlabel() == "batch size"


def test_grids_in_several_batches_are_a_line_for_each_batch():
    rows = [
        row("a", 1.0 * batch, height=side, batch_size=batch, workload="attention")
        for side in (14, 28)
        for batch in (1, 8)
    ]
    time, _ = draw_benchmark(rows).axes
    assert lines(time) == {
        "a, batch 1": [(196, 1000), (784, 1000)],
        "a, batch 8": [(196, 1000), (784, 1000)],
    }


def test_nothing_measured_draws_nothing(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        plot_benchmark([], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
