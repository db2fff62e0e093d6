"""What a run resolves to, in words: nothing that decides it goes unsaid."""

import dataclasses

import jax
import pytest
from bottleneck_transformer_flax.cli.plan_text import (
    describe_augmentation,
    plan_lines,
    recipe_lines,
)

from bottleneck_transformer_flax.augmentation.image import Augmentation
from bottleneck_transformer_flax.training.recipes import RECIPES, default_config
from training.linear_runs import CONFIG, plan_of


def lines_of(config):
    """The lines of a run of a linear model, by their first word."""
    return dict(line.split(maxsplit=1) for line in plan_lines(plan_of(config)))


def with_augmentation(**changes):
    return CONFIG.replace(augmentation=dataclasses.replace(CONFIG.augmentation, **changes))


def with_optimization(**changes):
    return CONFIG.replace(optimization=dataclasses.replace(CONFIG.optimization, **changes))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_as_it_is_has_only_its_name(name):
    assert recipe_lines(name, RECIPES[name]) == [f"recipe  {name}"]


def test_data_and_model_have_lines_of_their_own():
    config = default_config("photos").replace(variant="botnet50")
    assert recipe_lines("image-folder", config) == ["recipe  image-folder"]


def test_every_departure_from_a_recipe_is_named():
    recipe = RECIPES["small-images"]
    changed = recipe.replace(
        epochs=20,
        optimization=dataclasses.replace(recipe.optimization, ema_decay=None, learning_rate=0.05),
        augmentation=dataclasses.replace(recipe.augmentation, aspect_ratio=(0.5, 2.0)),
    )
    assert recipe_lines("small-images", changed) == [
        "recipe  small-images, but epochs 20, optimization.learning_rate 0.05, "
        "optimization.ema_decay None, augmentation.aspect_ratio 0.5 2"
    ]


def test_a_rate_that_is_for_another_batch_is_noted():
    smaller = RECIPES["paper-standard"].replace(batch_size=256)
    assert recipe_lines("paper-standard", smaller)[1:] == [
        "note    learning rate 0.4 is for 1024 images a step; in proportion, 256 have "
        "--learning-rate 0.1"
    ]
    with_a_rate = smaller.replace(
        optimization=dataclasses.replace(smaller.optimization, learning_rate=0.1)
    )
    assert recipe_lines("paper-standard", with_a_rate)[1:] == []


@pytest.mark.parametrize("name", ["small-images", "image-folder"])
def test_the_rule_of_rates_is_of_sgd_alone(name):
    assert recipe_lines(name, RECIPES[name].replace(batch_size=8))[1:] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "sgd", "momentum": 0.85, "nesterov": False}, "sgd with momentum 0.85"),
        ({"optimizer": "sgd", "nesterov": True}, "Nesterov's momentum"),
        ({"optimizer": "adamw", "momentum": 0.85}, "adamw, learning rate"),
        ({"optimizer": "muon", "nesterov": True}, "muon with Nesterov's momentum"),
        ({"learning_rate": 0.0375}, "learning rate 0.0375"),
        ({"warmup_epochs": 1.5}, "after 1.5 epochs of warm-up"),
        ({"warmup_epochs": 1.0}, "after 1 epoch of warm-up"),
        # Half of the run's four epochs at most.
        ({"warmup_epochs": 9.0}, "after 2 epochs of warm-up"),
        ({"weight_decay": 3e-5}, "weight decay 3e-05"),
        ({"label_smoothing": 0.2}, "label smoothing 0.2"),
        ({"clip_norm": 2.0}, "a norm of 2"),
        ({"ema_decay": 0.97}, "decay 0.97"),
    ],
)
def test_how_parameters_are_updated(changes, said):
    assert said in lines_of(with_optimization(**changes))["update"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop": "shift", "shift_pixels": 3}, "moved by up to 3 pixels"),
        ({"crop": "shift", "shift_pixels": 1}, "moved by up to 1 pixel"),
        ({"crop": "resized", "min_scale": 0.08}, "crops of 8 to 100 % of the area"),
        ({"policy": "rand", "policy_magnitude": 7}, "RandAugment, 2 operations of magnitude 7"),
        ({"policy": "trivial"}, "TrivialAugment"),
        ({"flip": True}, "half of them mirrored"),
        ({"mixup_alpha": 0.3}, "mixup 0.3"),
        ({"cutmix_alpha": 0.4}, "CutMix 0.4"),
        ({"erasing_probability": 0.25}, "25 % of them erased in part"),
    ],
)
def test_how_images_are_changed(changes, said):
    plain = {"crop": "none", "policy": "none", "flip": False}
    assert lines_of(with_augmentation(**plain))["images"] == "no random crop"
    assert lines_of(with_augmentation(**(plain | changes)))["images"].endswith(said)


def test_an_augmentation_in_words():
    assert describe_augmentation(Augmentation(flip=False)) == "no random crop"
    everything = Augmentation(
        crop="resized",
        policy="rand",
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        erasing_probability=0.25,
    )
    assert describe_augmentation(everything) == (
        "crops of 8 to 100 % of the area, RandAugment, 2 operations of magnitude 10, half of them "
        "mirrored, 25 % of them erased in part, mixup 0.2, CutMix 1"
    )
    assert describe_augmentation(Augmentation(policy="trivial", crop="shift")) == (
        "moved by up to 2 pixels, TrivialAugment, half of them mirrored"
    )


def test_images_that_grow():
    config = CONFIG.replace(
        epochs=4,
        input=dataclasses.replace(CONFIG.input, progressive_phases=2, progressive_start=0.75),
    )
    assert "from 75 % of the size up in 2 phases" in lines_of(config)["images"]


def test_plain_float32_steps_have_only_their_devices():
    assert lines_of(CONFIG)["compute"] == "on 2 devices (cpu)"


def test_devices_of_several_processes(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    assert lines_of(CONFIG)["compute"] == "on 2 devices of 4 processes (cpu)"


def test_how_steps_are_computed():
    config = with_optimization(remat=True, accumulation_steps=2, shard_parameters=True)
    config = config.replace(model=dataclasses.replace(config.model, dtype="bfloat16"))
    assert lines_of(config)["compute"] == (
        "on 2 devices (cpu), in bfloat16, parameters in float32, each batch in 2 parts, blocks "
        "computed again in the backward pass, parameters in parts over the devices"
    )
