"""What the tests of the upper rooms share: tiny data, tiny models, and fixtures for them."""

import inspect
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.data.datasets import Splits
from bottleneck_transformer_flax.data.sources.memory import ArraySource
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.variants import VARIANTS, Variant
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.config import InputOptions
from bottleneck_transformer_flax.training.optimizer import make_optimizer
from bottleneck_transformer_flax.training.train_state import TrainState, create_state
from bottleneck_transformer_flax.training.train_step import DeviceBatch, make_train_step

# The import hook would check how records are built. But they take what JSON has, lists and strings,
# bring it into form and check it themselves; and jax builds trees of anything. Lifted here and not
# in a fixture, because records are built while modules are imported.
for record in (BoTNetConfig, Preprocessing, InputOptions, Augmentation, TrainState):
    record.__init__ = inspect.unwrap(record.__init__)

CLASSES = ("ant", "bee", "cat")
SIZE = (16, 16)
SMALL = BoTNetConfig(
    stage_sizes=(1, 1, 1, 1),
    num_classes=3,
    initial_filters=4,
    num_heads=2,
    head_dim=4,
    stem="3x3",
    stem_pool=False,
)
SMALL_VARIANT = Variant(
    name="small", config=SMALL, size=16, source="tests", parameters=0, multiply_adds=0
)
CROPPED = Preprocessing(size=SIZE, crop=1.0)


class LinearModel(BoTNet):
    """Mean colour → scale → dropout → kernel and bias: a model whose step can be done by hand.

    Its running mean moves like a batch norm's, but the logits don't read it: a batch in parts is
    then exactly the whole batch.
    """

    def setup(self):
        pass

    @nn.compact
    def __call__(self, images, *, train=False):
        features = jnp.mean(images, axis=(1, 2))
        running = self.variable("batch_stats", "mean", jnp.zeros, (3,))
        if train and not self.is_initializing():
            running.value = 0.9 * running.value + 0.1 * features.mean(axis=0)
        classes = self.config.num_classes
        scale = self.param("scale", nn.initializers.constant(1.5), (3,))
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, classes))
        bias = self.param("bias", nn.initializers.constant(0.1), (classes,))
        dropout = nn.Dropout(self.config.dropout_rate)
        return dropout(features * scale[None], deterministic=not train) @ kernel + bias[None]


def colour_images(count, seed=0, size=SIZE):
    """Random uint8 images whose class, ``index % 3``, is their brightest channel."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 150, (count, *size, 3), dtype=np.uint8)
    for index in range(count):
        images[index, :, :, index % 3] += 100
    return images


def labels_of(count):
    return (np.arange(count) % 3).astype(np.int32)


def batch_of(count, valid=None, seed=3, size=SIZE):
    valid = np.ones(count, bool) if valid is None else np.asarray(valid)
    return DeviceBatch(colour_images(count, seed, size), labels_of(count), valid)


def stepper(model, options, rate=0.1, rates=None, seed=0, **rest):
    """A step, and a function that makes the same first state again."""
    optimizer = make_optimizer(options, optax.constant_schedule(rate), rates or {})

    def start():
        variables = model.init(jax.random.key(7), jnp.zeros((1, *SIZE, 3)))
        return create_state(variables, optimizer, average=rest.get("ema_decay") is not None)

    return make_train_step(model, optimizer, CROPPED, seed=seed, **rest), start


def array_source(count, seed=0, size=SIZE):
    return ArraySource(colour_images(count, seed, size), labels_of(count), CLASSES, f"tiny {seed}")


def array_splits(train=7, validation=9, test=None):
    """The splits of so many images each; None for no such split."""
    held_out = (count and array_source(count, seed) for seed, count in ((2, validation), (3, test)))
    return Splits(array_source(train, 1), *held_out, "tiny arrays")


def write_classes(root, counts, seed=0, size=SIZE):
    """A folder per class with PNG files ``0.png`` and on."""
    for position, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index, pixels in enumerate(
            colour_images(3 * count, seed + position, size)[position::3]
        ):
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def write_data(root, train=4, test=3):
    """``train/`` and ``val/`` with the three classes."""
    write_classes(root / "train", dict.fromkeys(CLASSES, train), seed=1)
    write_classes(root / "val", dict.fromkeys(CLASSES, test), seed=11)
    return root


def truncated_jpeg(path):
    """A file that starts as an image and ends in its middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colour_images(1, seed=5)[0].repeat(4, 0).repeat(4, 1)).save(path, "JPEG")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def assert_same_bits(first, second):
    """Two trees of arrays: same structure, shapes, dtypes and bits."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True
    ):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        where = jax.tree_util.keystr(path)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
        assert ours.tobytes() == theirs.tobytes(), where


def tree_differs(first, second):
    return any(
        np.asarray(ours).tobytes() != np.asarray(theirs).tobytes()
        for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(scope="module", autouse=True)
def small_variant():
    """A variant called "small" that compiles in a few seconds; gone when the module is done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "small", SMALL_VARIANT)
        yield
