"""Ways to read training images, from files to a network's float32 input: ours, and a plain loop."""

import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from benchmarks.implementations import package_version
from benchmarks.photographs import USUAL_SIZE
from bottleneck_transformer_flax.augmentation.auto_augment import apply_policy
from bottleneck_transformer_flax.augmentation.batch import (
    augment_batch,
)
from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.augmentation.image import (
    Box,
    TrainingTransform,
    random_box,
)
from bottleneck_transformer_flax.axes import Array
from bottleneck_transformer_flax.data.loader import training_batches
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.decoding import open_image
from bottleneck_transformer_flax.preprocessing import Preprocessing

InputPolicy = Literal["none", "rand"]
ReaderName = Literal["ours", "ours-threads", "timm", "plain-loop"]

CROPS_ALONE = Augmentation(crop="resized")


@dataclass(frozen=True, kw_only=True)
class InputCase:
    """What is read: random parts of JPEG files or others, resized by a bicubic filter and flipped.

    Attributes:
        root: the folder of the images.
        names: their paths below it.
        size: (height, width) of the network's input.
        batch_size: images a batch.
        num_workers: processes of every reader that has some.
        policy: "rand" is RandAugment, two operations of magnitude 10, after the resize.
        examples: a folder of ``write_photographs`` in the usual size, of which every reader shows
            the same parts.
    """

    root: Path
    names: tuple[str, ...]
    size: tuple[int, int]
    batch_size: int
    num_workers: int
    policy: InputPolicy
    examples: Path

    @property
    def preprocessing(self) -> Preprocessing:
        """Of the network."""
        return Preprocessing(size=self.size)

    @property
    def augmentation(self) -> Augmentation:
        """What changes the images."""
        return Augmentation(crop="resized", policy=self.policy)

    def path(self, index: int) -> str:
        """Of the image with this number, counted on and on over the files."""
        return str(self.root / self.names[index % len(self.names)])

    def example_parts(self) -> list[tuple[str, Box]]:
        """Paths of the examples, each with the box that ``random_box`` gives by its place."""
        height, width = self.size
        return [
            (
                str(path),
                random_box(USUAL_SIZE, width / height, CROPS_ALONE, np.random.default_rng(place)),
            )
            for place, path in enumerate(sorted(self.examples.iterdir()))
        ]


class BuiltReader(NamedTuple):
    """A reader that has begun.

    Attributes:
        take: waits for so many batches as the network's input.
        close: ends what was started.
        examples: the parts of the examples, resized.
    """

    take: Callable[[int], None]
    close: Callable[[], None]
    examples: UInt8[np.ndarray, "n h w 3"]


class Reader(NamedTuple):
    """One way to read.

    Attributes:
        module: in this package, where it is built; imported only there where it is measured.
        builder: the name of its ``(case) → BuiltReader`` there.
        packages: what must be installed.
    """

    module: str
    builder: str
    packages: tuple[str, ...] = ()

    def build(self, case: InputCase) -> BuiltReader:
        """Begin to read."""
        built: BuiltReader = getattr(import_module(f"{__package__}.{self.module}"), self.builder)(
            case
        )
        return built

    def missing(self) -> list[str]:
        """The packages it needs that are not installed."""
        return [name for name in self.packages if package_version(name) is None]


READERS: dict[ReaderName, Reader] = {
    "ours": Reader("readers", "build_workers"),
    "ours-threads": Reader("readers", "build_threads"),
    "timm": Reader("torch_reader", "build", ("torch", "timm")),
    "plain-loop": Reader("readers", "build_plain_loop"),
}


def build_workers(case: InputCase) -> BuiltReader:
    """``training_batches`` with processes, and then what the training step does to a batch."""
    return _build_ours(case, num_workers=case.num_workers)


def build_threads(case: InputCase) -> BuiltReader:
    """The same with threads, one a core."""
    return _build_ours(case, num_workers=0)


def _build_ours(case: InputCase, num_workers: int) -> BuiltReader:
    count = len(case.names)
    source = FolderSource(case.root, case.names, np.zeros(count, np.int32), ("all",))
    transform = TrainingTransform(case.preprocessing, case.augmentation)
    batches = training_batches(
        source, transform, batch_size=case.batch_size, seed=0, num_workers=num_workers
    )
    targets, valid = jnp.zeros((case.batch_size, 1)), jnp.ones(case.batch_size, bool)

    @jax.jit
    def network_input(images: UInt8[Array, "b h w 3"], key: Array) -> Float[Array, "b h w 3"]:
        normalized = case.preprocessing.normalize(images)
        return augment_batch(normalized, targets, valid, key, Augmentation(flip=True))[0]

    keys = _keys()

    def take(count: int) -> None:
        for _ in range(count):
            network_input(next(batches)["image"], next(keys)).block_until_ready()

    plain = TrainingTransform(case.preprocessing, CROPS_ALONE)
    examples = [
        plain(open_image(path), np.random.default_rng(place))
        for place, (path, _) in enumerate(case.example_parts())
    ]
    return BuiltReader(take, batches.close, np.stack(examples))


def _keys() -> Iterator[Array]:
    for step in itertools.count():
        yield jax.random.fold_in(jax.random.key(0), step)


def build_plain_loop(case: InputCase) -> BuiltReader:
    """What Pillow takes in as many processes: no batch is made, nothing is sent or flipped."""
    executor = ProcessPoolExecutor(case.num_workers, multiprocessing.get_context("spawn"))
    seeds = itertools.count()

    def take(count: int) -> None:
        images = -(-count * case.batch_size // case.num_workers)
        shares = [
            executor.submit(read_plainly, case, next(seeds), images)
            for _ in range(case.num_workers)
        ]
        for share in shares:
            share.result()

    examples = [
        np.asarray(_plain(path, case.size, partial(_the_same, box)))
        for path, box in case.example_parts()
    ]
    return BuiltReader(take, executor.shutdown, np.stack(examples))


def _the_same(box: Box, size: tuple[int, int]) -> Box:
    return box


def read_plainly(case: InputCase, seed: int, count: int) -> None:
    """Read so many images, one after the other."""
    rng = np.random.default_rng(seed)
    height, width = case.size

    def draw(size: tuple[int, int]) -> Box:
        return random_box(size, width / height, case.augmentation, rng)

    for index in rng.integers(len(case.names), size=count).tolist():
        np.asarray(apply_policy(_plain(case.path(index), case.size, draw), case.augmentation, rng))


def _plain(path: str, size: tuple[int, int], draw: Callable[[tuple[int, int]], Box]) -> Image.Image:
    """A part of an image by Pillow alone, decoded at a fraction where that is enough."""
    height, width = size
    with Image.open(path) as image:
        whole_width, whole_height = image.size
        left, top, right, bottom = draw((whole_height, whole_width))
        reduction = max(1, min((right - left) // width, (bottom - top) // height))
        image.draft(None, (whole_width // reduction, whole_height // reduction))
        across, down = image.width / whole_width, image.height / whole_height
        box = (left * across, top * down, right * across, bottom * down)
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return rgb.resize((width, height), Image.Resampling.BICUBIC, box)
