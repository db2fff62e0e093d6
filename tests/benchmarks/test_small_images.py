"""The commands that train on a folder of small images."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import torch_resnet
from benchmarks.last_stage import NETWORKS, Row, differences, draw, mean_and_interval
from bottleneck_transformer_flax import BoTNet
from bottleneck_transformer_flax.models.flops import count_multiply_adds


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Light and dark pictures of 16 × 16 pixels, 128 to train on and 20 to score."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 128), ("test", 20)):
        for index in range(count):
            name = ("dark", "light")[index % 2]
            pixels = random.integers(0, 100, (16, 16, 3)) + 150 * (index % 2)
            path = folder / part / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def row(last_stage, seed, top1):
    return Row(
        last_stage=last_stage,
        seed=seed,
        epochs=1,
        parameters=1,
        multiply_adds=1,
        train_loss=1.0,
        loss=1.0,
        top1=top1,
        count=100,
    )


def test_the_networks_differ_in_the_last_stage_alone_at_equal_cost():
    (convolution, _), (attention, _) = NETWORKS.values()
    assert convolution.block_pattern[:3] == attention.block_pattern[:3]
    kinds = {"block_pattern": attention.block_pattern, "head_dim": attention.head_dim}
    assert convolution.replace(**kinds) == attention
    costs = [count_multiply_adds(BoTNet(each), (32, 32)) for each in (convolution, attention)]
    assert costs[1] == pytest.approx(costs[0], rel=0.005)


def test_seeds_are_compared_pair_by_pair():
    rows = [row("convolution", 0, 0.5), row("attention", 0, 0.6), row("convolution", 1, 0.7)]
    assert differences(rows) == pytest.approx([0.1])
    assert differences([*rows, row("attention", 1, 0.6)]) == pytest.approx([0.1, -0.1])
    draw(rows)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5)).tolist()
    intervals = [mean_and_interval(sample) for sample in samples]
    held = np.mean([abs(middle - 3.0) <= half for middle, half in intervals])
    assert held == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_have_it")
def test_the_last_stages_are_trained_with_every_seed_and_go_on_where_they_were(
    call, pictures, tmp_path, read_csv
):
    command = ("last-stage", pictures, "--epochs", 4, "--out", tmp_path, "--seeds")
    first = call(*command, 0, "--json")
    assert first.code == 0, first.err
    found = [json.loads(line) for line in first.out.splitlines()]
    assert [each["last_stage"] for each in found] == list(NETWORKS)
    assert all(each["top1"] > 0.8 and each["count"] == 20 for each in found)
    again = call(*command, 0, 3)
    assert again.code == 0, again.err
    assert "attention − convolution: " in again.out
    rows = read_csv(tmp_path / "last-stage.csv")
    assert [float(each["top1"]) for each in rows[:2]] == [each["top1"] for each in found]
    assert [each["seed"] for each in rows] == ["0", "0", "3", "3"]
    other = call(*command[:2], "--out", tmp_path, "--seeds", 0, "--epochs", 5)
    assert (other.code, "holds another run" in other.err) == (1, True)


@pytest.mark.slow
def test_the_plain_resnet_learns_in_the_time_it_is_given(call, pictures):
    called = call("torch-resnet", pictures, "--minutes", 0.3, "--seed", 1)
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert (found["seed"], found["count"]) == (1, 20)
    assert found["top1"] > 0.8
    assert 17 < found["seconds"] < 30


def test_the_plain_resnet_ends_where_reading_took_all_the_time(call, pictures):
    called = call("torch-resnet", pictures, "--minutes", 1e-4)
    assert called.code == 0, called.err
    assert json.loads(called.out)["epochs"] >= 1


def test_the_learning_rate_is_one_cycle():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=1001, cycle_momentum=False, final_div_factor=1e9
    )
    for step in range(1001):
        expected = schedule.get_last_lr()[0]
        # PyTorch's peak is a step early.
        assert torch_resnet._one_cycle(step / 1000) == pytest.approx(expected, abs=0.006)
        if step < 1000:
            optimizer.step()
            schedule.step()


def test_a_folder_without_test_images_is_refused(call, pictures):
    called = call("last-stage", pictures / "train")
    assert (called.code, called.out) == (2, "")
    assert "has no images to score; add test/" in called.err
