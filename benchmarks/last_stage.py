"""Train networks that differ in the last stage alone: 3×3 convolutions there, or attention.

    python -m benchmarks last-stage

docs/convolution-or-attention.md says what is compared and what came of it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.last_stage_report import EpochRow, draw_last_stage, summary_text
from benchmarks.study import run_study, study_parser
from bottleneck_transformer_flax import BoTNetConfig, get_config
from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.cli.progress import TrainingDisplay
from bottleneck_transformer_flax.cli.startup import keep_freed_memory
from bottleneck_transformer_flax.errors import BoTNetError
from bottleneck_transformer_flax.models.flops import count_multiply_adds
from bottleneck_transformer_flax.models.variants import VARIANTS, Variant
from bottleneck_transformer_flax.training.config import OptimizerOptions, RunConfig
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.setup import Setup, make_setup
from bottleneck_transformer_flax.training.trainer import train

NETWORKS: dict[str, BoTNetConfig] = {
    "convolution": get_config("botnet_tiny", block_pattern=("C", "C", "C", "C")),
    # With four heads of 66 the last stage costs what it does with a 3×3 convolution.
    "attention": get_config("botnet_tiny", head_dim=66),
}

TRAINING = RunConfig(
    batch_size=128,
    optimization=OptimizerOptions(
        optimizer="sgd",
        learning_rate=0.2,
        warmup_epochs=2.0,
        weight_decay=5e-4,
        label_smoothing=0.1,
        ema_decay=0.998,
    ),
    augmentation=Augmentation(crop="shift", shift_pixels=2),
)


def register(networks: dict[str, BoTNetConfig]) -> None:
    """Let this process know the networks by name, as it knows the library's variants."""
    for name, config in networks.items():
        VARIANTS[name] = Variant(
            name=name, config=config, size=28, source="this script", parameters=0, multiply_adds=0
        )


def set_up(network: str, *, data: str, seed: int, epochs: int) -> Setup:
    """The run of one network with one seed; all else is the same.

    Raises:
        BoTNetError: when the data cannot be used.
    """
    return make_setup(TRAINING.replace(data=data, variant=network, seed=seed, epochs=epochs))


def train_or_go_on(setup: Setup, run: RunDirectory, console: Console) -> list[EpochRow]:
    """Train to the end, from where a former call was stopped; a run that has ended is read.

    Raises:
        BoTNetError: when the run in the folder is another, or training fails.
    """
    if not run.path.exists():
        run.create(setup.config)
    elif run.read_config() != setup.config:
        raise BoTNetError(f"{run.path} holds another run; remove it, or name other --runs")
    if not run.evaluation.is_file():
        with run.locked():
            train(setup, run, [TrainingDisplay(console)])
    cost = count_multiply_adds(setup.model, setup.preprocessing.size)
    return [
        EpochRow(
            network=setup.model_name,
            seed=setup.config.seed,
            epoch=row["epoch"],
            parameters=setup.num_parameters,
            multiply_adds=cost,
            train_loss=round(row["train_loss"], 6),
            test_loss=round(row["validation_loss"], 6),
            top1=row["validation_accuracy"],
        )
        for row in run.read_metrics()
    ]


def measure(options: argparse.Namespace) -> list[EpochRow]:
    """Every epoch of every network with every seed; the networks take turns."""
    console = Console(stderr=True, emoji=False)
    rows: list[EpochRow] = []
    for seed in options.seeds:
        for network in NETWORKS:
            setup = set_up(network, data=options.data, seed=seed, epochs=options.epochs)
            run = RunDirectory(options.runs / f"{network}-{seed}")
            console.print(f"{network}, seed {seed}")
            rows += train_or_go_on(setup, run, console)
    return rows


def run(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when it is done, 1 when it failed, with one line that says why."""
    parser = study_parser("last-stage", __doc__ or "")
    parser.add_argument("--data", default="fashion-mnist", help="as of botnet train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each")
    parser.add_argument("--epochs", type=int, default=5, help="of every run")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs", "last-stage"),
        help="where the runs are kept; those that are there go on, or are read",
    )
    options = parser.parse_args(arguments)
    if len(set(options.seeds)) < max(2, len(options.seeds)):
        parser.error("--seeds needs at least two numbers, each once")
    keep_freed_memory()
    register(NETWORKS)
    try:
        return run_study(
            "last-stage",
            options,
            measure=lambda: measure(options),
            draw=lambda rows: draw_last_stage(rows, options.data),
            table=summary_text,
        )
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on after the last epoch saved", file=sys.stderr)
        return 130
