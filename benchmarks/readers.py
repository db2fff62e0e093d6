"""Readers of training images, from files to a network's float32 input: ours, and a plain loop."""

import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from benchmarks.implementations import Built
from benchmarks.photographs import USUAL_SIZE, write_photographs
from benchmarks.results import Row
from benchmarks.timing import Outputs
from bottleneck_transformer_flax.augmentation.auto_augment import apply_policy
from bottleneck_transformer_flax.augmentation.batch import augment_batch
from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.augmentation.image import (
    Box,
    TrainingTransform,
    random_box,
)
from bottleneck_transformer_flax.axes import Array
from bottleneck_transformer_flax.data.loader import training_batches
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.decoding import EncodedImage, read_file
from bottleneck_transformer_flax.preprocessing import Preprocessing

Policy = Literal["none", "rand"]
TITLES: dict[Policy, str] = {"none": "random crops", "rand": "random crops, RandAugment"}
CROPS_ALONE = Augmentation(crop="resized")
_EXAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class ReaderCase:
    """Random parts of image files, resized by a bicubic filter, flipped and normalised.

    Attributes:
        root: folder of the images.
        names: their paths below it.
        size: height and width of the network's input.
        batch_size: images a batch; a call reads one.
        num_workers: processes that read; with none, threads of this library do.
        policy: "rand" is RandAugment, two operations of magnitude 10, after the resize.
    """

    root: Path
    names: tuple[str, ...]
    size: tuple[int, int]
    batch_size: int
    num_workers: int
    policy: Policy

    flops = None
    largest_difference = 3.0
    """Mean difference of values in [0, 255]; readers that crop before they resize ignore the crop's
    surroundings."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the network."""
        return Preprocessing(size=self.size)

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of every image."""
        return Augmentation(crop="resized", policy=self.policy)

    def row(self) -> Row:
        """What the rows of all readers have in common."""
        return Row(
            benchmark="data",
            case=TITLES[self.policy],
            quantity=f"{self.num_workers} workers",
            height=self.size[0],
            width=self.size[1],
            batch_size=self.batch_size,
        )

    def write(self, folder: Path) -> None:
        """Write a few photographs, which every reader then crops in the same places."""
        (folder / "examples").mkdir()
        write_photographs(folder / "examples", _EXAMPLES, USUAL_SIZE, seed=1)

    def difference(self, outputs: Outputs, expected: Outputs) -> float:
        """The mean difference of values in [0, 255]."""
        (ours,), (theirs,) = outputs, expected
        if ours.shape != theirs.shape:
            return math.inf
        return float(np.abs(ours.astype(float) - theirs).mean())

    def path(self, index: int) -> str:
        """Path of an image; the files repeat."""
        return str(self.root / self.names[index % len(self.names)])

    def example_parts(self, folder: Path) -> list[tuple[str, Box]]:
        """Paths of the photographs, each with the box that its place as a seed gives."""
        height, width = self.size
        return [
            (
                str(path),
                random_box(USUAL_SIZE, width / height, CROPS_ALONE, np.random.default_rng(place)),
            )
            for place, path in enumerate(sorted((folder / "examples").iterdir()))
        ]


def build(case: ReaderCase, folder: Path, *, plain: bool = False) -> Built:
    """Start to read, as ``botnet train`` does or, if plain, by Pillow alone."""
    return _plain_loop(case, folder) if plain else _ours(case, folder)


def built_reader(
    began: float,
    run: Callable[[int], None],
    examples: Iterable[np.ndarray],
    close: Callable[[], object],
) -> Built:
    """Wait for a reader's first batch; it began at ``began``, by ``time.perf_counter``."""
    run(1)
    seconds = time.perf_counter() - began
    shown = np.stack(list(examples))
    return Built(run, (shown,), seconds, memory_bytes=lambda: None, close=close)


def _ours(case: ReaderCase, folder: Path) -> Built:
    began = time.perf_counter()
    source = FolderSource(case.root, case.names, np.zeros(len(case.names), np.int32), ("all",))
    batches = training_batches(
        source,
        TrainingTransform(case.preprocessing, case.augmentation),
        batch_size=case.batch_size,
        seed=0,
        num_workers=case.num_workers,
    )
    targets, valid = jnp.zeros((case.batch_size, 1)), jnp.ones(case.batch_size, bool)

    @jax.jit
    def network_input(images: UInt8[Array, "b h w 3"], step: int) -> Float[Array, "b h w 3"]:
        key = jax.random.fold_in(jax.random.key(0), step)
        normalized = case.preprocessing.normalize(images)
        return augment_batch(normalized, targets, valid, key, Augmentation(flip=True))[0]

    steps = itertools.count()

    def run(calls: int) -> None:
        for _ in range(calls):
            network_input(next(batches)["image"], next(steps)).block_until_ready()

    plain = TrainingTransform(case.preprocessing, CROPS_ALONE)
    examples = (
        plain(EncodedImage(read_file(path), str(path)), np.random.default_rng(place))
        for place, (path, _) in enumerate(case.example_parts(folder))
    )
    return built_reader(began, run, examples, batches.close)


def _plain_loop(case: ReaderCase, folder: Path) -> Built:
    """Pillow in as many processes; images are neither batched nor sent nor flipped."""
    began = time.perf_counter()
    executor = ProcessPoolExecutor(case.num_workers, multiprocessing.get_context("spawn"))
    seeds = itertools.count()

    def run(calls: int) -> None:
        images = -(-calls * case.batch_size // case.num_workers)
        tasks = [
            executor.submit(read_plainly, case, next(seeds), images)
            for _ in range(case.num_workers)
        ]
        for task in tasks:
            task.result()

    examples = (
        np.asarray(_plain(path, case.size, partial(_the_same, box)))
        for path, box in case.example_parts(folder)
    )
    return built_reader(began, run, examples, executor.shutdown)


def _the_same(box: Box, size: tuple[int, int]) -> Box:
    return box


def read_plainly(case: ReaderCase, seed: int, count: int) -> None:
    """Read ``count`` images, one after the other."""
    rng = np.random.default_rng(seed)
    height, width = case.size

    def draw(size: tuple[int, int]) -> Box:
        return random_box(size, width / height, case.augmentation, rng)

    for index in rng.integers(len(case.names), size=count).tolist():
        np.asarray(apply_policy(_plain(case.path(index), case.size, draw), case.augmentation, rng))


def _plain(path: str, size: tuple[int, int], draw: Callable[[tuple[int, int]], Box]) -> Image.Image:
    """Read a part of an image by Pillow alone, decoded at reduced size where that is enough."""
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
