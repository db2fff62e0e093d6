"""A run in words: nothing that decides it goes unsaid."""

import dataclasses

import jax
import numpy as np
import pytest

from bottleneck_transformer_flax import load_pretrained
from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.cli.setup_text import (
    describe_augmentation,
    estimate_lines,
    extension_lines,
    imbalance_lines,
    recipe_lines,
    setup_lines,
)
from bottleneck_transformer_flax.data.sources.memory import ArraySource
from bottleneck_transformer_flax.distributed import make_data_parallel
from bottleneck_transformer_flax.training.metrics import Progress
from bottleneck_transformer_flax.training.recipes import RECIPES
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from cli.conftest import ESTIMATE
from training.linear_runs import CONFIG, setup_of
from training.tiny import CLASSES


def lines_of(start=None, **changes):
    """The lines of a run of a linear model with some options changed, by their first word."""
    config = CONFIG.replace(**changes)
    setup = dataclasses.replace(setup_of(), config=config, pretrained=start)
    return dict(line.split(maxsplit=1) for line in setup_lines(setup))


def part(name, **changes):
    return {name: dataclasses.replace(getattr(CONFIG, name), **changes)}


@pytest.mark.parametrize("name", RECIPES)
def test_an_unchanged_recipe_has_only_its_name(name):
    """Data and model have lines of their own."""
    assert list(recipe_lines(name, RECIPES[name].replace(data="photos"))) == [f"recipe  {name}"]


def test_every_change_of_a_recipe_is_named():
    recipe = RECIPES["small-images"]
    changed = recipe.replace(
        epochs=20,
        optimization=dataclasses.replace(recipe.optimization, ema_decay=None, learning_rate=0.05),
        augmentation=dataclasses.replace(recipe.augmentation, aspect_ratio=(0.5, 2.0)),
    )
    assert list(recipe_lines("small-images", changed)) == [
        "recipe  small-images, but --epochs 20, --learning-rate 0.05, "
        "--ema-decay None, --aspect-ratio 0.5 2"
    ]


def test_a_learning_rate_that_is_for_another_batch_is_noted():
    smaller = RECIPES["paper-standard"].replace(batch_size=256)
    assert list(recipe_lines("paper-standard", smaller))[1:] == [
        "note    learning rate 0.4 is for 1024 images per step; for 256, the linear scaling rule "
        "gives --learning-rate 0.1"
    ]
    scaled = dataclasses.replace(smaller.optimization, learning_rate=0.1)
    for name, config in (
        ("paper-standard", smaller.replace(optimization=scaled)),
        # The rule is for SGD alone.
        ("small-images", RECIPES["small-images"].replace(batch_size=8)),
        ("image-folder", RECIPES["image-folder"].replace(batch_size=8)),
    ):
        assert list(recipe_lines(name, config))[1:] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optimizer": "sgd", "momentum": 0.85, "nesterov": False, "warmup_epochs": 1.5},
            "sgd with momentum 0.85, learning rate 0.0375 after 1.5 epochs of warm-up, then a "
            "cosine to 0, weight decay 3e-05, gradients clipped to norm 2",
        ),
        (
            {"optimizer": "muon", "clip_norm": None, "label_smoothing": 0.2, "ema_decay": 0.97},
            "muon with Nesterov momentum 0.9, learning rate 0.0375 after 1 epoch of warm-up, then "
            "a cosine to 0, weight decay 3e-05, label smoothing 0.2, moving average with decay "
            "0.97",
        ),
        # A warm-up is at most half of the run's four epochs.
        (
            {"optimizer": "adamw", "clip_norm": None, "warmup_epochs": 9.0},
            "adamw, learning rate 0.0375 after 2 epochs of warm-up, then a cosine to 0, weight "
            "decay 3e-05",
        ),
    ],
)
def test_how_parameters_are_updated(changes, said):
    options = {"learning_rate": 0.0375, "weight_decay": 3e-5, "nesterov": True, "clip_norm": 2.0}
    options |= {"label_smoothing": 0.0, "ema_decay": None} | changes
    assert lines_of(**part("optimization", **options))["update"] == f"{said}, dropout 0.3"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flip": False}, "no random crop"),
        (
            {"crop": "shift", "shift_pixels": 3, "policy": "trivial", "erasing_probability": 0.25},
            "shifted by up to 3 pixels, TrivialAugment, half of them flipped, random erasing in "
            "25 %",
        ),
        (
            {"crop": "resized", "policy": "rand", "mixup_alpha": 0.2, "cutmix_alpha": 1.0},
            "crops of 8 to 100 % of the area, RandAugment, 2 operations of magnitude 10, half of "
            "them flipped, mixup 0.2, CutMix 1",
        ),
    ],
)
def test_how_images_are_augmented(changes, said):
    assert describe_augmentation(Augmentation(**changes)) == said
    phases = part("input", progressive_phases=2, progressive_start=0.75)
    assert "growing from 75 % of the size in 2 phases" in lines_of(**phases)["images"]


def test_what_a_run_starts_from():
    tiny = load_pretrained("botnet_tiny")
    changes = {"variant": None, "pretrained": "botnet_tiny"}
    changes |= part("fine_tuning", frozen_through="c3", backbone_rate=0.1, frozen_batch_stats=True)
    assert lines_of(tiny, **changes)["start"] == (
        "botnet_tiny with a new head, frozen through c3, backbone at 0.1 of the learning rate, "
        "batch statistics frozen"
    )
    same = tiny._replace(classes=setup_of().class_names)
    assert ", for the same classes, frozen" in lines_of(same, **changes)["start"]
    assert "start" not in lines_of()


def test_how_classes_are_balanced_and_what_ends_a_run_early():
    assert "images weighted so that classes count" in lines_of(class_balance="weights")["update"]
    assert lines_of(class_balance="sampling")["images"].startswith("equally many of each class, ")
    assert lines_of(patience=3)["train"].endswith(
        ", ends after 3 validations without a better model"
    )


@pytest.mark.parametrize(("counts", "noted"), [((5, 50, 20), True), ((5, 49, 20), False)])
def test_where_the_largest_class_has_ten_times_the_smallest_accuracy_misleads(counts, noted):
    labels = np.repeat(np.arange(3, dtype=np.int32), counts)
    images = ArraySource(np.zeros((len(labels), 1, 1, 3), np.uint8), labels, CLASSES)
    setup = dataclasses.replace(setup_of(), splits=setup_of().splits._replace(train=images))
    said = (
        "note    50 training images are of 'bee' and 5 of 'ant': accuracy misleads, look at "
        "balanced accuracy"
    )
    advice = "; --class-balance weights or sampling makes the classes count equally"
    assert list(imbalance_lines(setup)) == ([said + advice] if noted else [])
    balanced = dataclasses.replace(setup, config=CONFIG.replace(class_balance="weights"))
    assert list(imbalance_lines(balanced)) == ([said] if noted else [])
    unscored = dataclasses.replace(balanced, splits=setup.splits._replace(validation=None))
    assert [line.endswith(": accuracy misleads") for line in imbalance_lines(unscored)] == (
        [True] if noted else []
    )


def test_what_more_epochs_change_is_said(tmp_path):
    setup, run = setup_of(test=10), RunDirectory(tmp_path)
    planned = [{"from_step": 0, "epochs": 2}, {"from_step": 6, "epochs": 4}]
    rate = f"{setup.learning_rates[6]:.3g}"
    schedule = (
        "note    4 epochs instead of 2: from here on, the learning rate is that of a run of 4 "
        f"epochs, {rate} in the next step; a run begun with as many has another result"
    )
    assert list(extension_lines(setup, Progress(step=6, planned=planned), run)) == [schedule]
    run.pretrained.mkdir()
    *_, kept = extension_lines(setup, Progress(step=6, planned=planned), run)
    assert kept == (
        f"note    {run.pretrained} and its scores stay until the new end of the run, which scores "
        "the test images once more"
    )
    for progress in (Progress(step=7, planned=planned), Progress(step=6, planned=planned[:1])):
        assert list(extension_lines(setup, progress, run)) == []


def test_how_steps_are_computed(monkeypatch):
    assert lines_of()["compute"] == "on 2 devices (cpu)"
    options = part("optimization", remat=True, accumulation_steps=2, shard_parameters=True)
    options |= part("model", dtype="bfloat16")
    assert lines_of(**options)["compute"] == (
        "on 2 devices (cpu), in bfloat16, parameters in float32, each batch in 2 micro-batches, "
        "blocks rematerialised in the backward pass, parameters sharded over the devices"
    )
    # Seven images at a time are divided by one device only, whatever there are.
    alone = dataclasses.replace(setup_of(), devices=make_data_parallel(7))
    assert dict(line.split(maxsplit=1) for line in setup_lines(alone))["compute"] == (
        "on 1 device (cpu)"
    )
    assert lines_of(batch_size=60)["note"].startswith("batch_size 60 exceeds the number")
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    assert lines_of()["compute"] == "on 2 devices of 4 processes (cpu)"


def test_an_estimate_tells_steps_memory_and_time():
    assert list(estimate_lines(setup_of(), ESTIMATE)) == [
        "steps   4, 24 images",
        "memory  3 MB for the state and 7 MB during a step, on each of 2 devices",
        "time    1.0 minutes: 500 ms per step (100 of them waiting for images), 2 validations of "
        "10.0 s, 8.0 s for the test images, 30 s to compile",
    ]
