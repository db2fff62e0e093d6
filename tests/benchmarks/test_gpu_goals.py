"""The GPU's script says of every goal whether it was met."""

from dataclasses import replace

import pytest

from benchmarks import gpu
from benchmarks.gpu_measure import Row
from benchmarks.gpu_settings import MEASURED, NOT_MEASURED


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
        (
            [replace(row, implementation="timm, not frozen") for row in peer_rows(1.3)[1:]],
            ": met, 1.30× (timm, not frozen)",
        ),
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
