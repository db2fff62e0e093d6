"""``botnet benchmark``: this library beside its peers, in one run (``data``: another module)."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.cases import Case

Workload = Literal["inference", "training", "attention", "attention-training"]
Name = Literal[
    "ours", "reference", "timm", "timm-compiled", "onnxruntime", "openvino", "ours-remat"
]
FreedMemory = Literal["kept", "kept-by-ours", "given-back"]


@dataclass(frozen=True)
class BenchmarkOptions:
    """Measure this library on the CPU beside the peers that are installed, all in turns.

    Each implementation has a process of its own, with the same weights and inputs. Their outputs
    are compared before anything is timed. Peers are timm on PyTorch, eager and compiled, and its
    ONNX export in onnxruntime and OpenVINO; "reference" is this library's plain path, "ours-remat"
    its training step in less memory (`botnet train --remat`).

    `botnet benchmark data` measures how fast training images are read.
    """

    workloads: Annotated[tuple[Workload, ...], tyro.conf.Positional] = ("inference", "training")
    """What to measure: the logits of a batch, a training step, or the last stage's attention layer
    alone, without or with its gradients."""
    variant: str = "botnet_t3"
    """The network; `botnet variants` lists them."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images; by default the variant's own."""
    batch_sizes: tuple[int, ...] | None = None
    """Images computed together; by default 1 and 8 in inference, 8 in training, 1 in attention."""
    grids: tuple[int, ...] = (14, 32, 64)
    """Of attention, the positions along a side of the grid."""
    implementations: tuple[Name, ...] | None = None
    """Who is measured, the others relative to the first; by default all that are installed."""
    freed_memory: FreedMemory = "kept"
    """Whether glibc keeps freed memory for the next use, which makes every implementation faster:
    in all processes; in this library's alone, whose commands ask for it; or in none."""
    rounds: int = 7
    """Turns of each implementation."""
    out: Path = Path("benchmark")
    """The folder for a CSV and a PNG of each workload."""
    json: bool = False
    """Print a JSON object a line for every row, instead of tables."""


def run(arguments: Sequence[str]) -> int:
    """The command."""
    parsed = options.parse(BenchmarkOptions, "benchmark", arguments)
    # The peers compute on the CPU. Every process inherits this.
    os.environ["JAX_PLATFORMS"] = "cpu"
    _check(parsed)

    from benchmarks.conditions import OURS, PEERS, conditions
    from benchmarks.figure import plot_benchmark
    from benchmarks.report import csv_text, table
    from benchmarks.rounds import Row, measure
    from bottleneck_transformer_flax.files import write_text

    circumstances = conditions(OURS + PEERS) | {"freed_memory": parsed.freed_memory}
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 160
    failed = False
    cases = {workload: list(_cases(parsed, workload)) for workload in parsed.workloads}
    for workload in cases:
        rows: list[Row] = []
        names = _installed(parsed, workload)
        for case in cases[workload]:
            fitting = _that_fit(names, case)
            if not fitting:
                failed = True
                height, width = case.size
                print(
                    f"benchmarks: error: no implementation fits into memory at {height} × {width}",
                    file=sys.stderr,
                )
                continue
            waiting = errors.status("") if errors.is_terminal else nullcontext()
            with waiting as status:
                say = (lambda text: None) if status is None else status.update
                result = measure(
                    case,
                    fitting,
                    rounds=parsed.rounds,
                    freed_memory=parsed.freed_memory,
                    say=say,
                )
            rows += result.rows
            # After every case, so that an interruption loses one, and both tell of the same.
            parsed.out.mkdir(parents=True, exist_ok=True)
            write_text(parsed.out / f"{workload}.csv", csv_text(rows, circumstances))
            plot_benchmark(list(map(dataclasses.asdict, rows)), parsed.out / f"{workload}.png")
            if parsed.json:
                for row in result.rows:
                    print(json.dumps(dataclasses.asdict(row) | circumstances), flush=True)
            else:
                console.print(table(result.rows), "")
            problems = list(result.problems)
            if parsed.implementations is None:
                # Nobody asked for these; they only happen to be installed.
                for reason in result.unable:
                    print(f"note: left out: {reason}", file=sys.stderr)
            else:
                problems += result.unable
            for problem in problems:
                failed = True
                print(f"benchmarks: error: {problem}", file=sys.stderr)
        if rows and not parsed.json:
            print(f"written  {parsed.out / workload}.csv and .png")
    if not parsed.json:
        print("measured on " + ", ".join(f"{key} {value}" for key, value in circumstances.items()))
    return 1 if failed else 0


def _check(parsed: BenchmarkOptions) -> None:
    if parsed.rounds < 1:
        raise ConfigError(f"rounds is {parsed.rounds}; expected an integer of at least 1")
    for name, values in {"batch_sizes": parsed.batch_sizes, "grids": parsed.grids}.items():
        if values is not None and (not values or min(values) < 1):
            raise ConfigError(f"{name} is {values}; expected integers of at least 1")
    if parsed.implementations == ():
        raise ConfigError("implementations is empty; name some, or leave it out for all")
    suffixes = ("csv", "png")
    files = [f"{workload}.{suffix}" for workload in parsed.workloads for suffix in suffixes]
    check_out(parsed.out, files)


def check_out(out: Path, names: Sequence[str]) -> None:
    """See that files of these names can be written into a folder, before anything is measured.

    Raises:
        ConfigError: when they cannot.
    """
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        what = "cannot be written to" if place.is_dir() else "is a file"
        raise ConfigError(f"out is {out}, but {place} {what}; name a folder that can be made")
    for name in names:
        if (out / name).is_dir():
            raise ConfigError(f"{out / name} is to be written, but is a folder; name another out")


def _cases(parsed: BenchmarkOptions, workload: Workload) -> "Iterator[Case]":
    from benchmarks.cases import Case
    from bottleneck_transformer_flax.models.variants import get_variant

    variant = get_variant(parsed.variant)
    defaults = {"inference": (1, 8), "training": (8,)}
    of_layer = workload.startswith("attention")
    config = variant.config
    if of_layer and "A" not in config.block_kinds(len(config.stage_sizes) - 1):
        raise ConfigError(
            f"{parsed.variant} does not attend in its last stage, so it has no layer for "
            f"{workload}; choose a variant that does, such as botnet_t3"
        )
    sizes = [(side, side) for side in dict.fromkeys(parsed.grids)]
    if not of_layer:
        sizes = [parsed.image_size or variant.image_size]
    for size in sizes:
        for batch_size in dict.fromkeys(parsed.batch_sizes or defaults.get(workload, (1,))):
            yield Case(
                workload=workload,
                variant=parsed.variant,
                config=config,
                size=size,
                batch_size=batch_size,
            )


def _installed(parsed: BenchmarkOptions, workload: Workload) -> list[str]:
    """The implementations to measure, after saying which are left out and why."""
    from benchmarks.implementations import IMPLEMENTATIONS

    able = [name for name, each in IMPLEMENTATIONS.items() if workload in each.workloads]
    chosen = []
    for name in dict.fromkeys(parsed.implementations or able):
        implementation = IMPLEMENTATIONS[name]
        missing = implementation.missing()
        if workload not in implementation.workloads:
            reason: Any = f"does no {workload}"
        elif missing:
            reason = f"needs {' and '.join(missing)} (pip install {' '.join(missing)})"
        else:
            chosen.append(name)
            continue
        print(f"note: {name} is left out: it {reason}", file=sys.stderr)
    if not chosen:
        raise ConfigError(f"no implementation to measure {workload} of; see the notes above")
    return chosen


def _that_fit(names: Sequence[str], case: "Case") -> list[str]:
    """As many as the free memory holds at once, in their order; the others are named."""
    from benchmarks.conditions import available_memory_bytes
    from benchmarks.implementations import IMPLEMENTATIONS

    available = available_memory_bytes()
    if available is None:
        return list(names)
    height, width = case.size
    fitting = []
    for name in names:
        needed = IMPLEMENTATIONS[name].least_memory_bytes(case)
        if needed <= available:
            available -= needed
            fitting.append(name)
        else:
            print(
                f"note: {name} is left out of {height} × {width}: attention weights take it about "
                f"{needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free beside the others'",
                file=sys.stderr,
            )
    return fitting
