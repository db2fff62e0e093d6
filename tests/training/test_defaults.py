"""Defaults that fit the data: what a practitioner would choose, and why in one line."""

import pytest
from PIL import Image

from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.defaults import (
    DataSummary,
    choose_defaults,
    choose_fine_tuning,
    summarize,
)
from bottleneck_transformer_flax.training.recipes import RECIPES
from data.image_files import numbered_source
from training.tiny import array_source

PHOTOGRAPHS = ((375, 500), (500, 375), (500, 333))


def summary(num_images, num_classes, *sizes, grey=False):
    return DataSummary(num_images=num_images, num_classes=num_classes, sizes=sizes, grey=grey)


def decided(choice):
    config = choice.config
    return choice.recipe, config.variant, config.input.image_size, config.epochs, config.batch_size


# Training images: a tenth of each data set is held out.
@pytest.mark.parametrize(
    ("data", "expected", "needs_pretrained", "why"),
    [
        (
            summary(54_000, 10, (32, 32)),
            ("small-images", "botnet11", (32, 32), 8, 128),
            False,
            "54,000 training images in 10 classes, 32 × 32 pixels: small images",
        ),
        (
            summary(720, 5, *PHOTOGRAPHS),
            ("image-folder", "botnet_tiny", (128, 128), 182, 64),
            True,
            "720 training images in 5 classes, about 500 × 375 pixels: few photographs",
        ),
        (
            summary(1800, 10, (28, 28), grey=True),
            ("small-images", "botnet11", (28, 28), 143, 128),
            False,
            "small images; grey, so none are mirrored: they may show characters",
        ),
        (
            summary(36, 2, *PHOTOGRAPHS),
            ("image-folder", "botnet_tiny", (128, 128), 300, 16),
            True,
            "few photographs",
        ),
        (
            summary(900_000, 1000, *PHOTOGRAPHS),
            ("paper-standard", "botnet_s1_50", (224, 224), 100, 1024),
            False,
            "enough for the paper's recipe",
        ),
        (
            summary(50_000, 100, *PHOTOGRAPHS),
            ("image-folder", "botnet26t_256", (256, 256), 50, 64),
            False,
            "enough for a larger model",
        ),
        (
            summary(10_000_000, 9000, *PHOTOGRAPHS),
            ("paper-standard", "botnet_s1_50", (224, 224), 12, 1024),
            False,
            "10,000,000",
        ),
        (summary(2, 2), ("image-folder", "botnet_tiny", (128, 128), 300, 16), True, "none of"),
    ],
)
def test_what_a_practitioner_would_choose(data, expected, needs_pretrained, why):
    choice = choose_defaults(data)
    assert decided(choice) == expected
    assert choice.needs_pretrained == needs_pretrained
    assert why in choice.reason
    assert "\n" not in choice.reason
    assert choice.config.augmentation.flip != data.grey


@pytest.mark.parametrize(
    ("sizes", "variant", "expected", "whole"),
    [
        # Their own size, where the model has at least 4 × 4 positions to attend over.
        ([(32, 28)], None, (32, 28), True),
        ([(60, 40), (48, 40), (20, 30)], None, (48, 40), True),
        ([(8, 8)], None, (32, 32), True),
        ([(12, 36)], None, (20, 56), True),
        ([(32, 32)], "botnet_tiny", (32, 32), True),
        ([(32, 32)], "botnet50", (224, 224), True),
        # Never enlarged; whole where nothing is resampled.
        ([(96, 96)], None, (96, 96), True),
        ([(100, 100)], None, (96, 96), False),
        ([(96, 96), (96, 97)], None, (96, 96), False),
        ([(20_000, 20_000)], None, (128, 128), False),
        ([(300, 400)], "botnet_t3", (224, 224), False),
        # Panoramas keep their shape; a single one among others changes nothing.
        ([(500, 2000)], None, (64, 256), False),
        ([(2000, 300)], None, (256, 64), False),
        ([(500, 5000), *PHOTOGRAPHS], None, (128, 128), False),
        # The more frequent kind decides.
        ([(32, 32), (32, 32), (600, 800)], None, (32, 32), True),
        ([(32, 32), (600, 800), (600, 800)], None, (128, 128), False),
    ],
)
def test_the_image_size_follows_the_images_and_the_model(sizes, variant, expected, whole):
    config = choose_defaults(summary(720, 5, *sizes), variant).config
    assert (config.input.image_size, config.input.eval_crop) == (expected, 1.0 if whole else None)
    assert variant in (None, config.variant)


@pytest.mark.parametrize("size", [(32, 32), (600, 800)])
def test_few_images_get_enough_steps_and_very_many_no_more_epochs(size):
    recipe = RECIPES["small-images" if size == (32, 32) else "image-folder"]
    before = None
    for num_images in (2, 36, 300, 3000, 9999, 150_000):
        config = choose_defaults(summary(num_images, 2, size)).config
        steps = config.epochs * max(1, num_images // config.batch_size)
        assert steps >= (300 if num_images < 36 else 600 if num_images < 300 else 2000)
        assert config.epochs // config.evaluate_every_epochs <= 100
        assert before is None or config.epochs <= before
        # The average has forgotten the random start.
        assert config.optimization.ema_decay**steps < 0.01
        before = config.epochs
    assert (config.epochs, config.batch_size) == (recipe.epochs, recipe.batch_size)
    assert config.optimization == recipe.optimization
    assert RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("num_images", "grey", "expected"), [(36, True, (250, 16)), (720, False, (20, 16))]
)
def test_fine_tuning_takes_enough_steps_for_its_average_too(num_images, grey, expected):
    choice = choose_fine_tuning(summary(num_images, 5, *PHOTOGRAPHS, grey=grey), "botnet_tiny")
    config = choice.config
    assert choice.recipe == "fine-tuning"
    assert (config.pretrained, config.variant) == ("botnet_tiny", None)
    assert (config.epochs, config.batch_size) == expected
    assert config.optimization.ema_decay ** (config.epochs * (num_images // 16)) < 0.01
    assert (config.augmentation.flip, config.input.image_size) == (not grey, None)
    assert choice.reason.endswith("may show characters" if grey else ": fine-tuning")


def test_the_average_follows_the_epochs_and_batches_that_are_given():
    data = summary(720, 5, *PHOTOGRAPHS)
    for given, decay in (
        ({"epochs": 20}, 0.977),
        ({"epochs": 20, "batch_size": 6}, 0.997),
        ({"epochs": 1, "batch_size": 720}, 0.5),
    ):
        config = choose_defaults(data, **given).config
        assert config.optimization.ema_decay == decay
        assert given.items() <= config.to_json().items()


def test_a_sample_is_read_by_its_headers_and_unreadable_images_are_left_out(tmp_path):
    source = numbered_source(tmp_path, 100, size=(5, 4), bad=range(2, 100))
    # The header is there, the pixels are not.
    (tmp_path / "99.png").write_bytes((tmp_path / "00.png").read_bytes()[:-16])
    found = summarize(source)
    assert (found.num_images, found.num_classes, found.grey) == (100, 100, False)
    assert set(found.sizes) == {(5, 4)}
    assert len(found.sizes) == 3
    assert summarize(source) == found
    assert len(summarize(array_source(7)).sizes) == 7
    assert summarize(numbered_source(tmp_path, 3, bad=range(3))).sizes == ()
    source = numbered_source(tmp_path, 2)
    Image.new("L", (4, 5)).save(tmp_path / "00.png")
    assert not summarize(source).grey
    Image.new("I;16", (4, 5)).save(tmp_path / "01.png")
    assert summarize(source).grey
