"""The networks of last_stage.py differ in the last stage alone, and cost the same."""

import csv
import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks.last_stage import NETWORKS, run
from benchmarks.last_stage_report import (
    EpochRow,
    differences,
    draw_last_stage,
    last_epochs,
    mean_and_interval,
    summary_text,
)
from bottleneck_transformer_flax import BoTNet
from bottleneck_transformer_flax.figures.style import save_png
from bottleneck_transformer_flax.models.flops import abstract_variables, count_multiply_adds

SIZE = (28, 28)
ACCURACIES = {"convolution": (0.90, 0.92), "attention": (0.91, 0.94)}


def made_rows():
    """Two epochs of each network with the seeds 3 and 4, the first ten points below the last."""
    return [
        EpochRow(
            network=network,
            seed=seed,
            epoch=epoch,
            parameters=300_000,
            multiply_adds=6_000_000,
            train_loss=0.5,
            test_loss=0.3 + 0.1 * seed,
            top1=accuracy - 0.1 * (2 - epoch),
        )
        for network, accuracies in ACCURACIES.items()
        for seed, accuracy in zip((3, 4), accuracies, strict=True)
        for epoch in (1, 2)
    ]


def test_networks_differ_in_the_last_stage_alone():
    parts = {}
    for name, config in NETWORKS.items():
        params = abstract_variables(BoTNet(config=config), SIZE)["params"]
        parts[name] = {part: jax.tree.map(lambda leaf: leaf.shape, params[part]) for part in params}
    ours, theirs = parts["attention"], parts["convolution"]
    assert {part for part in ours if ours[part] != theirs[part]} == {"c5"}
    assert ours.keys() == theirs.keys()


def test_networks_cost_the_same_within_half_a_percent():
    convolution, attention = (
        count_multiply_adds(BoTNet(config=NETWORKS[name]), SIZE)
        for name in ("convolution", "attention")
    )
    assert attention == pytest.approx(convolution, rel=0.005)
    assert attention <= convolution


def test_interval_is_students():
    # 4.303 and 12.706 are the 97.5 % quantiles of two degrees of freedom and of one.
    assert mean_and_interval([1, 2, 3]) == pytest.approx((2, 4.302653 / 3**0.5))
    assert mean_and_interval([0, 2]) == pytest.approx((1, 12.706205))


def test_last_epochs_do_not_depend_on_the_rows_order():
    for rows in (made_rows(), made_rows()[::-1]):
        last = last_epochs(rows)
        assert [(row.seed, row.epoch) for row in last["attention"]] == [(3, 2), (4, 2)]
        assert [row.top1 for row in last["convolution"]] == list(ACCURACIES["convolution"])


def test_summary_says_what_the_last_epochs_came_to():
    last = last_epochs(made_rows())
    assert differences(last) == pytest.approx([0.01, 0.02])
    text = summary_text(made_rows()).splitlines()
    assert text[1].split() == (
        ["convolution", "300,000", "6,000,000", "0.5000", "0.6500", "90.00", "92.00", "91.00", "%"]
    )
    assert text[2].split()[-4:] == ["91.00", "94.00", "92.50", "%"]
    # Half the distance of two values, 0.5 points, times 12.706.
    assert text[4].startswith("attention − convolution: +1.50 ± 6.35 points")


def test_picture_is_drawn(tmp_path):
    save_png(draw_last_stage(made_rows(), "fashion-mnist"), tmp_path / "rows.png")
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.size == (1650, 660)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, class_name, number in itertools.product(("train", "test"), "ab", range(4)):
        path = tmp_path / "images" / split / class_name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_have_it")
def test_runs_that_have_ended_are_read_again(folder, tmp_path, capsys):
    words = ["--data", str(folder), "--seeds", "0", "1", "--epochs", "1"]
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert run([*words, *places]) == 0
    first = capsys.readouterr().out
    assert (tmp_path / "out" / "last-stage.png").is_file()
    with (tmp_path / "out" / "last-stage.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [(row["network"], row["seed"]) for row in read] == [
        ("convolution", "0"),
        ("attention", "0"),
        ("convolution", "1"),
        ("attention", "1"),
    ]
    assert run([*words, *places]) == 0
    assert capsys.readouterr().out == first
    assert run([*words[:-1], "2", *places]) == 1
    assert "convolution-0 holds another run" in capsys.readouterr().err


def test_one_seed_is_told_to_be_too_few(capsys):
    with pytest.raises(SystemExit) as stopped:
        run(["--seeds", "1"])
    assert stopped.value.code == 2
    assert "at least two" in capsys.readouterr().err
