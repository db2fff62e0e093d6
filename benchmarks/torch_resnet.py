"""Train a plain ResNet on small images in PyTorch, for a given time: a peer for ``botnet train``.

A 3×3 stem, a max-pool, and three basic blocks of 28, 56 and 112 channels: 10.0 million
multiply-adds for an image of 32 × 32 pixels, as in ``botnet_small``. SGD with Nesterov's momentum
and one cycle of the learning rate; images are shifted by up to two pixels and mirrored.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from bottleneck_transformer_flax.axes import Int, UInt8
from bottleneck_transformer_flax.cli.startup import keep_freed_memory
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.data.sources.base import ImageSource
from bottleneck_transformer_flax.errors import ConfigError

CHANNELS = (28, 56, 112)
BATCH_SIZE, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, SMOOTHING = 128, 0.2, 0.9, 5e-4, 0.1
LONGEST_SHIFT = 2
# Part of the time with a rising learning rate, and part that is kept back to score.
_WARM_UP, _RESERVE = 0.3, 0.01


class BasicBlock(torch.nn.Module):
    """Two 3×3 convolutions and a shortcut, as in the first ResNets (arXiv 1512.03385)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        """The block, with a projection where the shape changes."""
        super().__init__()
        self.first = _convolution(in_channels, channels, 3, stride)
        self.second = _convolution(channels, channels, 3)
        self.shortcut = torch.nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = _convolution(in_channels, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        residual = self.second(torch.relu(self.first(x)))
        return torch.relu(self.shortcut(x) + residual)


def resnet(num_classes: int) -> torch.nn.Module:
    """The network, untrained."""
    blocks, before = [], CHANNELS[0]
    for index, channels in enumerate(CHANNELS):
        blocks.append(BasicBlock(before, channels, 1 if index == 0 else 2))
        before = channels
    return torch.nn.Sequential(
        _convolution(3, CHANNELS[0], 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, 2, 1),
        *blocks,
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(before, num_classes),
    )


def _convolution(
    in_channels: int, channels: int, size: int, stride: int = 1
) -> torch.nn.Sequential:
    convolution = torch.nn.Conv2d(in_channels, channels, size, stride, size // 2, bias=False)
    return torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(channels))


def run(arguments: Sequence[str]) -> int:
    """Train, score the test images once, and print a line of JSON."""
    started = time.perf_counter()
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    torch.manual_seed(options.seed)
    splits = load_splits(str(options.data), validation_fraction=options.validation_fraction)
    scored = splits.test or splits.validation
    if scored is None:
        raise ConfigError(f"{options.data} has no images to score; add test/")
    if len(splits.train) < BATCH_SIZE:
        raise ConfigError(
            f"{options.data} has {len(splits.train)} training images; expected at least "
            f"{BATCH_SIZE}, one batch"
        )
    images, labels = _read(splits.train)
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    pixels = _to_tensor((images - mean) / std)
    network: Any = resnet(len(splits.train.class_names))
    network.to(memory_format=torch.channels_last)
    seconds = options.minutes * 60 * (1 - _RESERVE)
    epochs, losses = _train(network, pixels, torch.from_numpy(labels), started + seconds)
    images, labels = _read(scored)
    accuracy = _accuracy(network, _to_tensor((images - mean) / std), torch.from_numpy(labels))
    taken = time.perf_counter() - started
    result = {"top1": accuracy, "epochs": epochs, "seconds": taken, "loss": losses}
    print(json.dumps(result | {"seed": options.seed, "count": len(labels)}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks torch-resnet", description=__doc__)
    parser.add_argument("data", type=Path, help="a folder with train/ and test/")
    parser.add_argument("--minutes", type=float, default=15.0, help="time for all of it")
    parser.add_argument("--seed", type=int, default=0, help="of the parameters and the order")
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.0,
        help="part of the training images that is held out, and scored where there is no test/",
    )
    return parser


def _read(source: ImageSource) -> tuple[UInt8[np.ndarray, "n h w 3"], Int[np.ndarray, " n"]]:
    images = np.stack([np.asarray(source.open(index).decode()) for index in range(len(source))])
    return images, np.asarray(source.labels, np.int64)


def _to_tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)


def _train(
    network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, deadline: float
) -> tuple[float, float]:
    """Train until the deadline; return the number of epochs, and the loss over the last one."""
    optimizer = torch.optim.SGD(
        network.parameters(),
        LEARNING_RATE,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
    )
    steps, begun = len(images) // BATCH_SIZE, time.perf_counter()
    # Reading the images may have taken longer than all the time there was.
    seconds = max(1.0, deadline - begun)
    losses: list[float] = []
    while True:
        order = torch.randperm(len(images))
        for step in range(steps):
            progress = (time.perf_counter() - begun) / seconds
            # At least one step, however little time there is.
            if progress >= 1 and losses:
                return len(losses) / steps, float(np.mean(losses[-steps:]))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * _one_cycle(progress)
            rows = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            losses.append(_step(network, optimizer, images, labels, rows))
        epoch, loss = len(losses) // steps, np.mean(losses[-steps:])
        print(f"epoch {epoch} loss {loss:.3f}", file=sys.stderr, flush=True)


def _one_cycle(progress: float) -> float:
    """Learning rate relative to its peak, after a fraction of the time.

    The shape of PyTorch's ``OneCycleLR``: a cosine up from 1/25, then one down to 0. By time, not
    by steps, so that the run takes the time it is given, however fast the machine is meanwhile.
    """
    if progress < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / _WARM_UP)) / 2
    rest = min(1.0, (progress - _WARM_UP) / (1 - _WARM_UP))
    return (1 + math.cos(math.pi * rest)) / 2


def _step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    rows: torch.Tensor,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    logits = network.train()(_augmented(images[rows]))
    loss = cross_entropy(logits, labels[rows], label_smoothing=SMOOTHING)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _augmented(images: torch.Tensor) -> torch.Tensor:
    """Shift each image over zeros, and mirror half of them."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, [LONGEST_SHIFT] * 4)
    down, right = torch.randint(2 * LONGEST_SHIFT + 1, (2, count, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    mirrored = torch.rand(count, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None]
    moved = padded.permute(0, 2, 3, 1)[index]
    return moved.permute(0, 3, 1, 2)


def _accuracy(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    network.eval()
    with torch.inference_mode():
        batches = zip(images.split(500), labels.split(500), strict=True)
        correct = sum(int((network(x).argmax(1) == y).sum()) for x, y in batches)
    return correct / len(labels)
