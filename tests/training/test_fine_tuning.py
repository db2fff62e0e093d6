"""Fine-tuning: what is kept to the bit, what is new, and that it beats training from scratch."""

import dataclasses
import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image, ImageOps

from bottleneck_transformer_flax import load_pretrained, save_pretrained
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.config import (
    FineTuningOptions,
    InputOptions,
    OptimizerOptions,
    RunConfig,
)
from bottleneck_transformer_flax.training.recipes import FINE_TUNING, IMAGE_FOLDER
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import make_setup
from bottleneck_transformer_flax.training.trainer import train
from reference.variables import random_variables
from training.linear_runs import Recorder, after_epoch, in_step, rows_of
from training.tiny import (
    CLASSES,
    SIZE,
    SMALL,
    assert_same_bits,
    tree_differs,
    write_classes,
    write_data,
)

PREPROCESSING = Preprocessing(
    size=SIZE, crop=0.8, interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
)


@pytest.fixture(scope="module")
def data(tmp_path_factory, small_variant):
    return write_data(tmp_path_factory.mktemp("data"))


def pretrained_with(folder, *classes):
    model = BoTNet(config=SMALL.replace(num_classes=len(classes)))
    variables = random_variables(abstract_variables(model, SIZE))
    calibrated = PREPROCESSING.replace(temperature=2.0)
    return str(save_pretrained(folder, model, variables, calibrated, classes))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A model of other classes than the data's."""
    return pretrained_with(tmp_path_factory.mktemp("start") / "model", "x", "y")


def config_of(data, pretrained, image_size=None, **fine_tuning):
    return RunConfig(
        data=str(data),
        variant=None,
        pretrained=pretrained,
        epochs=2,
        batch_size=6,
        optimization=OptimizerOptions(learning_rate=0.05, ema_decay=0.9, weight_decay=0.1),
        fine_tuning=FineTuningOptions(**fine_tuning),
        input=InputOptions(image_size=image_size, num_workers=0),
    )


def go(path, config, at=None):
    run = RunDirectory(path)
    if not path.exists():
        run.create(config)
    recorder = Recorder(at)
    outcome = train(make_setup(config), run, [recorder], recorder.stop)
    return outcome, load_pretrained(run.pretrained) if outcome.finished else None


def parts_that_changed(before, after):
    """The parts with a parameter or a statistic whose bits differ."""
    return {
        part
        for collection in ("params", "batch_stats")
        for part, of_part in before.variables[collection].items()
        if part != "head" and tree_differs(of_part, after.variables[collection][part])
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"frozen_through": "c3"}, {"c4", "c5"}),
        ({"backbone_rate": 0.1}, {"stem", "c2", "c3", "c4", "c5"}),
        ({"frozen_through": "c5"}, set()),
        ({"backbone_rate": 0.0, "frozen_batch_stats": True}, set()),
    ],
)
def test_what_is_frozen_is_kept_to_the_bit(data, pretrained, tmp_path, options, changed):
    _, tuned = go(tmp_path / "run", config_of(data, pretrained, **options))
    assert parts_that_changed(load_pretrained(pretrained), tuned) == changed
    assert tuned.classes == CLASSES
    assert tuned.variables["params"]["head"]["kernel"].shape[1] == 3


def test_a_pretrained_models_preprocessing_is_kept_but_its_temperature_is_not(data, pretrained):
    setup = make_setup(config_of(data, pretrained))
    assert setup.preprocessing == PREPROCESSING
    assert setup.model_name == "small"
    resized = make_setup(config_of(data, pretrained, image_size=(20, 12)))
    assert resized.preprocessing == PREPROCESSING.replace(size=(20, 12))
    assert resized.pretrained.preprocessing == resized.preprocessing.replace(temperature=2.0)


@pytest.mark.parametrize("kept", [True, False])
def test_the_same_classes_in_the_same_order_keep_their_head(data, tmp_path, kept):
    start = pretrained_with(tmp_path / "start", *(CLASSES if kept else CLASSES[::-1]))
    setup = make_setup(config_of(data, start))
    first = setup.initial_state()
    params = jax.device_get(first.variables["params"])
    before = load_pretrained(start).variables["params"]
    assert_same_bits(params | {"head": before["head"]}, before)
    assert setup.keeps_head == kept
    assert tree_differs(params["head"], before["head"]) != kept
    # A step uses the state up, and the setup can give it again.
    for leaf in jax.tree.leaves(first):
        leaf.delete()
    assert_same_bits(jax.device_get(setup.initial_state().variables["params"]), params)
    # ImageNet's folders are called by synsets.
    write_classes(tmp_path / "imagenet", {"n01440764": 3, "n01443537": 3})
    names = ("tench", "goldfish") if kept else ("goldfish", "tench")
    images = load_splits(str(tmp_path / "imagenet"))
    named = setup.pretrained._replace(classes=names)
    assert dataclasses.replace(setup, splits=images, pretrained=named).keeps_head == kept


@pytest.mark.slow
def test_a_real_run_stopped_and_resumed_leaves_the_same_bits(data, pretrained, tmp_path):
    config = config_of(data, pretrained, frozen_through="c2", backbone_rate=0.5)
    whole, whole_model = go(tmp_path / "whole", config)
    for moment in (in_step(1), after_epoch(1)):
        assert not go(tmp_path / "resumed", config, at=moment)[0].finished
    resumed, resumed_model = go(tmp_path / "resumed", config)
    assert resumed.evaluation == whole.evaluation
    assert rows_of(tmp_path / "resumed") == rows_of(tmp_path / "whole")
    ours, theirs = (last_state(tmp_path / name) for name in ("resumed", "whole"))
    assert set(theirs) == {"step", "variables", "average", "optimizer_state"}
    assert_same_bits(ours, theirs)
    for model in (resumed_model, whole_model):
        assert_same_bits(model.variables, jax.tree.map(np.asarray, theirs["average"]))


def last_state(path):
    """All arrays of the last checkpoint, as orbax reads them."""
    with ocp.StandardCheckpointer() as reader:
        return reader.restore((RunDirectory(path).checkpoints / "4" / "state").absolute())


GROUPS = {
    "top": ("T-shirt/top", "Pullover", "Coat", "Shirt"),
    "trouser": ("Trouser",),
    "dress": ("Dress",),
    "shoe": ("Sandal", "Sneaker", "Ankle boot"),
    "bag": ("Bag",),
}


def write_regrouped(root, *, negative):
    """Clothes that botnet_tiny was not trained on, in five groups, as larger images."""
    source = load_splits("embedded").validation
    for group, classes in GROUPS.items():
        labels = [source.class_names.index(name) for name in classes]
        for number, index in enumerate(np.flatnonzero(np.isin(source.labels, labels))[:48]):
            path = root / ("train" if number < 8 else "val") / group / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = source.read(int(index)).resize((56, 56), Image.Resampling.BICUBIC)
            (ImageOps.invert(image) if negative else image).save(path)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("negative", "margin"), [(False, 0.2), (True, -0.05)])
def test_it_beats_training_from_scratch_on_a_small_split(tmp_path, negative, margin):
    """40 images to train on, 200 to score; the command line's recipes, with as many updates.

    On negatives, of which the pretrained model knows nothing, it is to be no worse.
    """
    data = write_regrouped(tmp_path / "data", negative=negative)
    accuracy = {}
    for name, recipe in {
        "scratch": IMAGE_FOLDER.replace(variant="botnet_tiny"),
        "fine-tuned": FINE_TUNING.replace(pretrained="botnet_tiny"),
    }.items():
        config = recipe.replace(
            data=str(data),
            epochs=FINE_TUNING.epochs,
            batch_size=FINE_TUNING.batch_size,
            evaluate_every_epochs=20,
            input=InputOptions(image_size=(28, 28), num_workers=0),
        )
        outcome, _ = go(tmp_path / name, config)
        accuracy[name] = outcome.evaluation["top1"]
        assert outcome.evaluation["count"] == 200
    # For docs/fine-tuning.md.
    print(json.dumps(accuracy | {"negative": negative}))
    assert accuracy["fine-tuned"] > accuracy["scratch"] + margin
