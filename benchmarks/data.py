"""Reading training images on the CPU, beside timm's loader and a plain loop of Pillow's."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks.figure import draw
from benchmarks.implementations import READERS
from benchmarks.options import (
    Results,
    add_implementations,
    add_rounds,
    at_least_one,
    installed,
    make_parser,
    use_cpu,
)
from benchmarks.photographs import write_photographs
from benchmarks.readers import Policy, ReaderCase
from benchmarks.results import progress
from benchmarks.timing import Pace, measure, started
from bottleneck_transformer_flax.data.datasets import load_splits
from bottleneck_transformer_flax.data.sources.folder import FolderSource
from bottleneck_transformer_flax.data.workers import usable_cores
from bottleneck_transformer_flax.errors import ConfigError

_PHOTOGRAPHS = 128
# As many batches as any reader has ahead when its first one is there.
_BATCHES_AHEAD = 8
_TURN_SECONDS = 3.0


def run(arguments: Sequence[str]) -> int:
    """Measure the readers."""
    options = _parser().parse_args(arguments)
    use_cpu()
    with tempfile.TemporaryDirectory() as folder:
        root, names = _files(options, Path(folder))
        cases = [
            ReaderCase(
                root=root,
                names=names,
                size=(options.image_size[0], options.image_size[1]),
                batch_size=options.batch_size,
                num_workers=options.num_workers,
                policy=policy,
            )
            for policy in dict.fromkeys(options.policies)
        ]
        readers, skipped = installed(options.implementations, READERS, "data", cases[0].row())
        results = Results(options, "data", draw=draw)
        pace = Pace(rounds=options.rounds, turn_seconds=_TURN_SECONDS, fewest_calls=_BATCHES_AHEAD)
        for case in cases:
            with started(READERS) as workers, progress() as say:
                results.add(measure(case, readers, workers, pace, say=say))
        if skipped:
            results.add(skipped)
    return results.finish()


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "data",
        "Measure how fast training images are read: random crops, resized, flipped and normalised. "
        "'ours' is what `botnet train` does, 'timm' its loader on PyTorch, 'plain-loop' Pillow "
        "alone, which makes no batches and flips nothing.",
    )
    add_rounds(parser, 5)
    parser.add_argument(
        "data",
        nargs="?",
        type=Path,
        help="a folder of images, as for `botnet train` (default: pictures that cost what "
        "photographs cost to decode)",
    )
    for name, size, what in (
        ("--photograph-size", [375, 500], "the pictures that are made up"),
        ("--image-size", [224, 224], "the network's input"),
    ):
        parser.add_argument(
            name,
            nargs=2,
            type=at_least_one,
            default=size,
            metavar=("HEIGHT", "WIDTH"),
            help=f"size of {what} (default: %(default)s)",
        )
    parser.add_argument("--batch-size", type=at_least_one, default=64, help="images a batch")
    parser.add_argument(
        "--num-workers",
        type=at_least_one,
        default=usable_cores(),
        help="processes that read (default: one a core)",
    )
    parser.add_argument(
        "--policies",
        nargs="+",
        choices=get_args(Policy),
        default=list(get_args(Policy)),
        help="what else is done to each image: nothing, or RandAugment (default: both)",
    )
    add_implementations(parser, READERS)
    return parser


def _files(options: argparse.Namespace, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder of the images, and their paths below it."""
    if options.data is None:
        write_photographs(folder, _PHOTOGRAPHS, tuple(options.photograph_size))
        return folder, tuple(sorted(path.name for path in folder.iterdir()))
    train = load_splits(str(options.data.absolute())).train
    if not isinstance(train, FolderSource):
        raise ConfigError(
            f"{options.data} holds no image files, which timm could read; expected a folder of a "
            "folder for each class"
        )
    if len(train) < options.batch_size:
        raise ConfigError(
            f"--batch-size is {options.batch_size} but {options.data} has only {len(train)} "
            f"training images; choose at most {len(train)}"
        )
    return train.root, train.names
