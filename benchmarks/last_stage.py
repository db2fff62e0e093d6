"""Train networks that differ in the last stage alone: 3×3 convolutions there, or attention.

    python benchmarks/last_stage.py

docs/convolution-or-attention.md says what is compared and what came of it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from last_stage_report import EpochRow, draw_last_stage, summary_text
from rich.console import Console

from bottleneck_transformer_flax import BoTNetConfig, get_config
from bottleneck_transformer_flax.allocator import keep_freed_memory
from bottleneck_transformer_flax.benchmarking.conditions import conditions
from bottleneck_transformer_flax.benchmarking.report import csv_text
from bottleneck_transformer_flax.cli.progress import TrainingDisplay
from bottleneck_transformer_flax.errors import BoTNetError
from bottleneck_transformer_flax.figures.style import save_png
from bottleneck_transformer_flax.models.cost import count_multiply_adds
from bottleneck_transformer_flax.models.variants import VARIANTS, Variant
from bottleneck_transformer_flax.training.loop import train
from bottleneck_transformer_flax.training.plan import Plan, make_plan
from bottleneck_transformer_flax.training.recipes import default_config
from bottleneck_transformer_flax.training.reporter import read_rows
from bottleneck_transformer_flax.training.run import RunDirectory

REPOSITORY = Path(__file__).parent.parent
NETWORKS: dict[str, BoTNetConfig] = {
    "convolution": get_config("botnet_tiny", block_pattern=("C", "C", "C", "C")),
    # With four heads of 66 the last stage costs what it does with a 3×3 convolution.
    "attention": get_config("botnet_tiny", head_dim=66),
}


def register(networks: dict[str, BoTNetConfig]) -> None:
    """Let this process know the networks by name, as it knows the library's variants."""
    for name, config in networks.items():
        VARIANTS[name] = Variant(
            name=name, config=config, size=28, source="this script", parameters=0, multiply_adds=0
        )


def plan_run(network: str, *, data: str, seed: int, epochs: int) -> Plan:
    """The run of one network with one seed; all else is the recipe's.

    Raises:
        BoTNetError: when the data cannot be used.
    """
    config = default_config(data, recipe="small-images")
    return make_plan(
        config.replace(variant=network, seed=seed, epochs=epochs, evaluate_every_epochs=1)
    )


def train_or_go_on(plan: Plan, run: RunDirectory, console: Console) -> list[EpochRow]:
    """Train to the end, from where a former call was stopped; a run that has ended is read.

    Raises:
        BoTNetError: when the run in the folder is another, or training fails.
    """
    if not run.path.exists():
        run.create(plan.config)
    elif run.read_config() != plan.config:
        raise BoTNetError(f"{run.path} holds another run; remove it, or name other --runs")
    if not run.evaluation.is_file():
        with run.locked(), TrainingDisplay(console) as display:
            train(plan, run, display)
    cost = count_multiply_adds(plan.model, plan.preprocessing.size)
    return [
        EpochRow(
            network=plan.model_name,
            seed=plan.config.seed,
            epoch=row["epoch"],
            parameters=plan.parameters,
            multiply_adds=cost,
            train_loss=round(row["train_loss"], 6),
            test_loss=round(row["test_loss"], 6),
            top1=row["test_accuracy"],
        )
        for row in read_rows(run)
    ]


def measure(
    data: str, *, seeds: Sequence[int], epochs: int, runs: Path, console: Console
) -> list[EpochRow]:
    """Every epoch of every network with every seed; the networks take turns."""
    rows: list[EpochRow] = []
    for seed in seeds:
        for network in NETWORKS:
            plan = plan_run(network, data=data, seed=seed, epochs=epochs)
            run = RunDirectory(runs / f"{network}-{seed}")
            console.print(f"{network}, seed {seed}")
            rows += train_or_go_on(plan, run, console)
    return rows


def run_all(options: argparse.Namespace) -> None:
    """Train, write the numbers and the picture, and print what came of it."""
    results = (options.out or REPOSITORY / "benchmarks" / "results") / "last-stage.csv"
    picture = (options.out or REPOSITORY / "docs" / "images") / "last-stage.png"
    # Before the work, so that a folder that cannot be made is told at once.
    for path in (results, picture):
        path.parent.mkdir(parents=True, exist_ok=True)
    rows = measure(
        options.data,
        seeds=options.seeds,
        epochs=options.epochs,
        runs=options.runs,
        console=Console(stderr=True, emoji=False),
    )
    measured = conditions()
    results.write_text(csv_text(rows, measured), encoding="utf-8")
    save_png(draw_last_stage(rows, options.data), picture)
    print(f"written: {results}, {picture}", file=sys.stderr)
    if options.json:
        print(json.dumps({"conditions": measured, "rows": [asdict(row) for row in rows]}))
    else:
        print(summary_text(rows))
        print("\n" + "   ".join(f"{name} {value}" for name, value in measured.items()))


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 when it is done, 1 when it failed, with one line that says why."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="fashion-mnist", help="as of botnet train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each")
    parser.add_argument("--epochs", type=int, default=5, help="of every run")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs", "last-stage"),
        help="where the runs are kept; those that are there go on, or are read",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where last-stage.csv and last-stage.png go; by default benchmarks/results and "
        "docs/images of this repository",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    options = parser.parse_args(arguments)
    if len(set(options.seeds)) < max(2, len(options.seeds)):
        parser.error("--seeds needs at least two numbers, each once")
    keep_freed_memory()
    register(NETWORKS)
    try:
        run_all(options)
    except BoTNetError as error:
        print(f"last_stage.py: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"last_stage.py: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on after the last epoch saved", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
