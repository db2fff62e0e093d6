"""Train networks that differ in the last stage alone: 3×3 convolutions there, or attention.

docs/convolution-or-attention.md says what is compared and what came of it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from scipy.stats import t as students_t

from benchmarks.figure import finish_panel
from benchmarks.options import Results, make_parser, use_cpu
from benchmarks.results import Format
from bottleneck_transformer_flax import BoTNetConfig, get_config
from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.cli.progress import TrainingDisplay
from bottleneck_transformer_flax.cli.startup import keep_freed_memory
from bottleneck_transformer_flax.errors import BoTNetError
from bottleneck_transformer_flax.figures.style import (
    INK_COLOR,
    TITLE_FONT_SIZE,
    TRAIN_COLOR,
    VALIDATION_COLOR,
    new_figure,
)
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
COLORS = {"convolution": VALIDATION_COLOR, "attention": TRAIN_COLOR}

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


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network with one seed after one epoch.

    Attributes:
        network: what its last stage does.
        seed: seed of its variables, of the images' order and of their augmentation.
        epoch: from 1.
        parameters: parameters of the network.
        multiply_adds: multiply-adds for one image.
        train_loss: mean loss over the epoch.
        validation_loss: loss of the averaged variables after it.
        validation_top1: fraction of the validation images that are right, likewise.
        top1: of the last epoch, fraction of the test images, or of the validation images where
            the data set has no test part.
    """

    network: str
    seed: int
    epoch: int
    parameters: int
    multiply_adds: int
    train_loss: float
    validation_loss: float
    validation_top1: float
    top1: float | None = None


_COUNT: Format = lambda count: f"{count:,}"  # noqa: E731
_LOSS: Format = lambda loss: f"{loss:.4f}"  # noqa: E731
_PERCENT: Format = lambda fraction: f"{100 * fraction:.2f} %"  # noqa: E731
COLUMNS: Mapping[str, tuple[str, Format]] = {
    "parameters": ("parameters", _COUNT),
    "multiply_adds": ("multiply-adds", _COUNT),
    "train_loss": ("train loss", _LOSS),
    "validation_loss": ("validation loss", _LOSS),
    "validation_top1": ("validation top-1", _PERCENT),
    "top1": ("top-1", _PERCENT),
}


def register(networks: Mapping[str, BoTNetConfig]) -> None:
    """Let this process know the networks by name, as it knows the library's variants."""
    for name, config in networks.items():
        VARIANTS[name] = Variant(
            name=name, config=config, size=28, source="this study", parameters=0, multiply_adds=0
        )


def train_or_resume(setup: Setup, run: RunDirectory, console: Console) -> list[Row]:
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
    epochs = [
        Row(
            network=setup.model_name,
            seed=setup.config.seed,
            epoch=row["epoch"],
            parameters=setup.num_parameters,
            multiply_adds=cost,
            train_loss=round(row["train_loss"], 6),
            validation_loss=round(row["validation_loss"], 6),
            validation_top1=row["validation_accuracy"],
        )
        for row in run.read_metrics()
    ]
    top1 = json.loads(run.evaluation.read_text(encoding="utf-8"))["top1"]
    return [*epochs[:-1], replace(epochs[-1], top1=top1)]


def measure(options: argparse.Namespace) -> list[Row]:
    """Every epoch of every network with every seed; the networks take turns."""
    console = Console(stderr=True, emoji=False)
    rows: list[Row] = []
    for seed in options.seeds:
        for network in NETWORKS:
            console.print(f"{network}, seed {seed}")
            changes = {"data": options.data, "variant": network, "epochs": options.epochs}
            setup = make_setup(TRAINING.replace(seed=seed, **changes))
            run = RunDirectory(options.runs / f"{network}-{seed}")
            rows += train_or_resume(setup, run, console)
    return rows


def last_epochs(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The last rows of every network, in the order of the seeds."""
    last = {(row.network, row.seed): row for row in sorted(rows, key=lambda row: row.epoch)}
    networks = dict.fromkeys(row.network for row in rows)
    return {name: [last[key] for key in sorted(last) if key[0] == name] for name in networks}


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of normal values, and half the width of its 95 % interval by Student's t."""
    quantile = float(students_t.ppf(0.975, len(values) - 1))
    return mean(values), quantile * stdev(values) / len(values) ** 0.5


def difference_line(rows: Sequence[Row]) -> str:
    """Attention's accuracy minus convolution's, seed by seed, in words."""
    last = last_epochs(rows)
    pairs = zip(last["attention"], last["convolution"], strict=True)
    differences = [(ours.top1 or 0.0) - (theirs.top1 or 0.0) for ours, theirs in pairs]
    middle, half = mean_and_interval(differences)
    return (
        f"attention − convolution: {100 * middle:+.2f} ± {100 * half:.2f} points of accuracy "
        f"(95 % interval of {len(differences)} pairs, Student's t)"
    )


def draw(rows: Sequence[Row], data: str) -> Figure:
    """Draw accuracy over the epochs, and beside it the last one's, seed by seed."""
    figure = new_figure(11.0, 4.4)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    curves, ends = figure.subplots(1, 2, width_ratios=(3, 2))
    last = last_epochs(rows)
    for name, of_network in last.items():
        for seed in (row.seed for row in of_network):
            run = [row for row in rows if (row.network, row.seed) == (name, seed)]
            epochs, accuracies = (
                [row.epoch for row in run],
                [100 * row.validation_top1 for row in run],
            )
            label = name if seed == of_network[0].seed else None
            curves.plot(epochs, accuracies, "o-", ms=3.5, lw=1.4, color=COLORS[name], label=label)
    for pair in zip(*last.values(), strict=True):
        accuracies = [100 * (row.top1 or 0.0) for row in pair]
        ends.plot(range(len(pair)), accuracies, color="0.8", linewidth=1, zorder=1)
        colors = [COLORS[row.network] for row in pair]
        ends.scatter(range(len(pair)), accuracies, c=colors, s=28, zorder=2)
    _panel(curves, "Top-1 accuracy on the validation images (%), a line for each seed")
    curves.set_xlabel("epoch", color=INK_COLOR)
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend(frameon=False, labelcolor=INK_COLOR, loc="lower right")
    _panel(ends, "At the end, on the test images (%), equal seeds joined")
    ends.set_xticks(range(len(last)), list(last))
    ends.set_xlim(-0.5, len(last) - 0.5)
    figure.suptitle(
        f"The last stage of a small network: convolution or attention ({data})",
        fontsize=TITLE_FONT_SIZE,
        color=INK_COLOR,
    )
    return figure


def _panel(axes: Axes, title: str) -> None:
    finish_panel(axes, title)
    axes.grid(axis="y", color="0.92", linewidth=0.8)


def run(arguments: Sequence[str]) -> int:
    """Train all networks with all seeds; a stopped study resumes after the last epoch saved."""
    parser = make_parser("last-stage", __doc__)
    parser.add_argument("--data", default="fashion-mnist", help="as for `botnet train`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of every run")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs", "last-stage"),
        metavar="FOLDER",
        help="where the runs are kept; those that are there are resumed, or read",
    )
    options = parser.parse_args(arguments)
    if len(set(options.seeds)) < max(2, len(options.seeds)):
        parser.error("--seeds needs at least two numbers, each once")
    use_cpu()
    picture = partial(draw, data=options.data)
    results = Results(options, "last-stage", draw=picture, columns=COLUMNS)
    keep_freed_memory()
    register(NETWORKS)
    results.add(measure(options))
    return results.finish(difference_line(results.rows))
