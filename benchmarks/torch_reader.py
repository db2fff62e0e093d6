"""timm's loader on PyTorch, as its training script has it on a CPU."""

import multiprocessing
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image

from benchmarks.implementations import Built
from benchmarks.readers import ReaderCase, built_reader
from bottleneck_transformer_flax.augmentation.image import Box
from reference.timm_networks import timm_data

_AUTO_AUGMENT = {"none": None, "rand": "rand-m10-n2"}
# No epoch may end while timm is measured: its workers would wait for the next one.
_IMAGES_AN_EPOCH = 10**7


class _Files:
    """A reader as timm expects it: files with their classes."""

    def __init__(self, case: ReaderCase) -> None:
        self._case = case

    def __len__(self) -> int:
        return _IMAGES_AN_EPOCH

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        return open(self._case.path(index), "rb"), 0  # noqa: PTH123


def build(case: ReaderCase, folder: Path) -> Built:
    """Workers that collate uint8 batches, which the loader normalises afterwards ("prefetcher").

    timm's training script has it so unless it is told otherwise.
    """
    began = time.perf_counter()
    if "fork" in multiprocessing.get_all_start_methods():
        # The default of a program on Linux; this process was spawned, and would spawn workers too.
        multiprocessing.set_start_method("fork", force=True)
    loader = timm_data().create_loader(
        timm_data().ImageDataset(str(case.root), reader=_Files(case)),
        (3, *case.size),
        case.batch_size,
        is_training=True,
        use_prefetcher=True,
        scale=(case.augmentation.min_scale, 1.0),
        ratio=case.augmentation.aspect_ratio,
        hflip=0.5,
        color_jitter=None,
        auto_augment=_AUTO_AUGMENT[case.policy],
        interpolation="bicubic",
        num_workers=case.num_workers,
        pin_memory=False,
        device=torch.device("cpu"),
    )
    batches = iter(loader)

    def run(calls: int) -> None:
        for _ in range(calls):
            next(batches)

    examples = (part_of_image(path, box, case.size) for path, box in case.example_parts(folder))
    return built_reader(began, run, examples, lambda: None)


def part_of_image(path: str, box: Box, size: tuple[int, int]) -> np.ndarray:
    """A part of an image by the function that timm's random crop calls."""
    from torchvision.transforms.functional import InterpolationMode, resized_crop

    left, top, right, bottom = box
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    part = resized_crop(
        image, top, left, bottom - top, right - left, list(size), InterpolationMode.BICUBIC
    )
    return np.asarray(part)
