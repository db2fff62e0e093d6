"""``botnet benchmark data``: reading training images, beside timm's loader."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from benchmarks.networks import check_out
from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.data.workers import usable_cores
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.preprocessing import checked_image_size

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.reader_rounds import InputRow
    from benchmarks.readers import InputCase, ReaderName

Name = Literal["ours", "ours-threads", "timm", "plain-loop"]
PolicyName = Literal["none", "rand"]
TITLES = {"none": "random crops", "rand": "random crops, RandAugment"}
_PHOTOGRAPHS, _EXAMPLES = 128, 8


@dataclass(frozen=True)
class DataBenchmarkOptions:
    """Measure how fast training images are read, on the CPU, beside timm's loader, all in turns.

    Everyone reads random parts of the files, resizes them by a bicubic filter, flips half of them
    and normalises batches to float32. "ours" is what `botnet train` does, with processes,
    "ours-threads" the same with threads, "timm" its loader on PyTorch with as many processes.
    "plain-loop" is Pillow alone in as many processes: it makes no batches and flips nothing. Before
    anything is timed, the same parts of a few images are compared.
    """

    data: Annotated[Path | None, tyro.conf.Positional] = None
    """A folder of image files, as for `botnet train`; by default pictures are made up that cost
    what photographs cost to decode."""
    photograph_size: tuple[int, int] = (375, 500)
    """Height and width of the pictures that are made up."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width of the network's input."""
    batch_size: int = 64
    """Images a batch."""
    num_workers: int | None = None
    """Processes that read; by default one a core."""
    policies: tuple[PolicyName, ...] = ("none", "rand")
    """What else is done to each image: nothing, or two operations of RandAugment of magnitude 10,
    each project's own."""
    implementations: tuple[Name, ...] | None = None
    """Who is measured, the others relative to the first; by default all that are installed."""
    rounds: int = 5
    """Turns of each, of three seconds."""
    out: Path = Path("benchmark")
    """The folder for data.csv, and a PNG of each policy."""
    json: bool = False
    """Print a JSON object a line for every row, instead of tables."""


def run(arguments: Sequence[str]) -> int:
    """The command."""
    parsed = options.parse(DataBenchmarkOptions, "benchmark data", arguments)
    # Every process inherits this.
    os.environ["JAX_PLATFORMS"] = "cpu"
    _check(parsed)
    check_out(parsed.out, _files(parsed))

    from benchmarks.conditions import OURS, conditions
    from benchmarks.reader_rounds import measure_input

    packages = (*OURS, "pillow", "numpy", "torch", "torchvision", "timm")
    circumstances = conditions(packages)
    names = _installed(parsed)
    errors = Console(stderr=True, highlight=False)
    rows: list[InputRow] = []
    failed = False
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        waiting = errors.status("making pictures up") if errors.is_terminal else nullcontext()
        with waiting as status:
            for case in _cases(parsed, folder):
                say = (lambda text: None) if status is None else status.update
                result = measure_input(case, names, folder, rounds=parsed.rounds, say=say)
                rows += result.rows
                _write(parsed, rows, result.rows, circumstances)
                for problem in result.problems:
                    failed = True
                    print(f"benchmarks: error: {problem}", file=sys.stderr)
    if not parsed.json:
        print("written  " + ", ".join(str(parsed.out / name) for name in _files(parsed)))
        print("measured on " + ", ".join(f"{key} {value}" for key, value in circumstances.items()))
    return 1 if failed else 0


def _check(parsed: DataBenchmarkOptions) -> None:
    checked_image_size(parsed.image_size)
    checked_image_size(parsed.photograph_size)
    for name in ("rounds", "batch_size", "num_workers"):
        value = getattr(parsed, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; expected an integer of at least 1")
    for name in ("policies", "implementations"):
        if getattr(parsed, name) == ():
            raise ConfigError(f"{name} is empty; name some, or leave it out for all")


def _files(parsed: DataBenchmarkOptions) -> list[str]:
    return ["data.csv", *(f"data-{policy}.png" for policy in dict.fromkeys(parsed.policies))]


def _installed(parsed: DataBenchmarkOptions) -> "list[ReaderName]":
    """Who is measured, after saying who is left out and why."""
    from benchmarks.readers import READERS

    chosen = []
    for name in dict.fromkeys(parsed.implementations or READERS):
        if missing := READERS[name].missing():
            needed = f"{' and '.join(missing)} (pip install {' '.join(missing)})"
            print(f"note: {name} is left out: it needs {needed}", file=sys.stderr)
        else:
            chosen.append(name)
    if not chosen:
        raise ConfigError("no implementation to measure; see the notes above")
    return chosen


def _cases(parsed: DataBenchmarkOptions, folder: Path) -> "list[InputCase]":
    from benchmarks.photographs import USUAL_SIZE, write_photographs
    from benchmarks.readers import InputCase

    root, names = _chosen_files(parsed)
    examples = folder / "examples"
    examples.mkdir()
    write_photographs(examples, _EXAMPLES, USUAL_SIZE, seed=1)
    if root is None:
        root = folder / "photographs"
        root.mkdir()
        write_photographs(root, _PHOTOGRAPHS, parsed.photograph_size)
        names = tuple(sorted(path.name for path in root.iterdir()))
    return [
        InputCase(
            root=root,
            names=names,
            size=parsed.image_size,
            batch_size=parsed.batch_size,
            num_workers=parsed.num_workers or usable_cores(),
            policy=policy,
            examples=examples,
        )
        for policy in dict.fromkeys(parsed.policies)
    ]


def _chosen_files(parsed: DataBenchmarkOptions) -> tuple[Path | None, tuple[str, ...]]:
    from bottleneck_transformer_flax.data.datasets import load_splits
    from bottleneck_transformer_flax.data.sources.folder import FolderSource

    if parsed.data is None:
        return None, ()
    if not parsed.data.is_dir():
        raise ConfigError(f"{parsed.data} is no folder; expected one of image files")
    train = load_splits(str(parsed.data.absolute())).train
    if not isinstance(train, FolderSource):
        raise ConfigError(
            f"{parsed.data} holds no image files that timm could read; expected a folder of a "
            "folder for each class"
        )
    if len(train) < parsed.batch_size:
        raise ConfigError(
            f"batch_size is {parsed.batch_size} but {parsed.data} has only {len(train)} training "
            f"images; choose a batch_size of at most {len(train)}"
        )
    return train.root, train.names


def _write(
    parsed: DataBenchmarkOptions,
    rows: "list[InputRow]",
    of_case: "list[InputRow]",
    circumstances: dict[str, str],
) -> None:
    from benchmarks.figure import plot_benchmark
    from benchmarks.report import csv_text
    from bottleneck_transformer_flax.files import write_text

    parsed.out.mkdir(parents=True, exist_ok=True)
    # After every case, so that an interruption loses one.
    write_text(parsed.out / "data.csv", csv_text(rows, circumstances))
    policy = of_case[0].policy
    named = {"workload": "reading", "variant": TITLES[policy]}
    bars = [dataclasses.asdict(row) | named for row in of_case]
    plot_benchmark(bars, parsed.out / f"data-{policy}.png")
    if parsed.json:
        for row in of_case:
            print(json.dumps(dataclasses.asdict(row) | circumstances), flush=True)
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(_table(of_case), "")


def _table(rows: "Sequence[InputRow]") -> "Table":
    """One policy's rows; times are relative to the first row's."""
    from benchmarks.report import empty_table, three_digits

    first = rows[0]
    table = empty_table(
        f"reading {TITLES[first.policy]}, {first.height} × {first.width}, "
        f"batch {first.batch_size}, {first.num_workers} processes",
        "images/s",
        "lowest",
        "highest",
        "time, relative",
        "start s",
        "difference",
    )
    for row in rows:
        table.add_row(
            row.implementation,
            *map(three_digits, (row.images_per_second, row.lowest, row.highest)),
            f"{row.relative_time:.2f}",
            f"{row.seconds_to_first_batch:.1f}",
            f"{row.mean_difference:.2f}",
        )
    return table
