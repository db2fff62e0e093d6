"""Train networks that differ in the last stage alone: a 3×3 convolution there, or attention.

docs/convolution-or-attention.md says what is compared and what came of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure
from rich.console import Console
from scipy.stats import t as students_t

from benchmarks.options import Results, at_least_one, make_parser, use_cpu
from benchmarks.results import Format
from bottleneck_transformer_flax import BoTNet, BoTNetConfig, get_config
from bottleneck_transformer_flax.cli.progress import TrainingDisplay
from bottleneck_transformer_flax.cli.startup import keep_freed_memory
from bottleneck_transformer_flax.data.datasets import Splits, load_splits
from bottleneck_transformer_flax.errors import BoTNetError, ConfigError
from bottleneck_transformer_flax.figures.style import (
    INK_COLOR,
    TRAIN_COLOR,
    VALIDATION_COLOR,
    new_figure,
    style_chart,
)
from bottleneck_transformer_flax.models.flops import count_multiply_adds
from bottleneck_transformer_flax.training.defaults import choose_defaults, summarize
from bottleneck_transformer_flax.training.run_directory import RunDirectory
from bottleneck_transformer_flax.training.run_images import record_images
from bottleneck_transformer_flax.training.setup import Setup, assemble
from bottleneck_transformer_flax.training.starting_point import starting_point
from bottleneck_transformer_flax.training.trainer import train

NETWORKS: Mapping[str, tuple[BoTNetConfig, str]] = {
    "convolution": (
        get_config("botnet11", initial_filters=16, block_pattern=("B", "B", "B", "C")),
        VALIDATION_COLOR,
    ),
    # With 62 channels a head the last stage costs what it does with a 3×3 convolution.
    "attention": (get_config("botnet11", initial_filters=16, head_dim=62), TRAIN_COLOR),
}
"""The networks, each with its colour."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network with one seed, after its last epoch.

    Attributes:
        last_stage: what its last stage does, a name in ``NETWORKS``.
        seed: of its parameters, of the images' order and of their augmentation.
        epochs: passes over the training images.
        parameters: number of parameters.
        multiply_adds: of one image.
        train_loss: over the last epoch, in nats.
        loss: of the averaged variables on the images that are scored.
        top1: likewise, as a fraction of these images.
        count: images that are scored.
    """

    last_stage: str
    seed: int
    epochs: int
    parameters: int
    multiply_adds: int
    train_loss: float
    loss: float
    top1: float
    count: int


COLUMNS: Mapping[str, tuple[str, Format]] = {
    "multiply_adds": ("multiply-adds", lambda count: f"{count:,}"),
    "parameters": ("parameters", lambda count: f"{count:,}"),
    "train_loss": ("train loss", lambda loss: f"{loss:.4f}"),
    "loss": ("loss", lambda loss: f"{loss:.4f}"),
    "top1": ("top-1", lambda top1: f"{100 * top1:.2f} %"),
}


def make_setup(name: str, data: str, splits: Splits, *, seed: int, epochs: int) -> Setup:
    """The run of one network with one seed; all else is the recipe's."""
    config = choose_defaults(summarize(splits.train), "botnet11", epochs=epochs).config
    images = dataclasses.replace(config.input, validation_fraction=0.0)
    config = config.replace(data=data, seed=seed, input=images)
    network = NETWORKS[name][0].replace(num_classes=len(splits.train.class_names))
    _, preprocessing, _ = starting_point(config, splits.train.native_size)
    return assemble(config, splits, BoTNet(config=network), preprocessing)


def train_one(name: str, setup: Setup, directory: RunDirectory, console: Console) -> Row:
    """Train to the end, from where an earlier call was interrupted.

    Raises:
        BoTNetError: when the folder holds another run, or training fails.
    """
    if not directory.path.exists():
        directory.path.mkdir(parents=True)
        images = record_images(directory, setup.config, setup.splits)
        directory.create(setup.config, images)
    elif directory.read_config() != setup.config:
        raise BoTNetError(f"{directory.path} holds another run; remove it, or name another --out")
    with directory.locked():
        scores = train(setup, directory, [TrainingDisplay(console)]).evaluation
    assert scores is not None
    return Row(
        last_stage=name,
        seed=setup.config.seed,
        epochs=setup.config.epochs,
        parameters=setup.num_parameters,
        multiply_adds=count_multiply_adds(setup.model, setup.preprocessing.size),
        train_loss=round(directory.read_metrics()[-1]["train_loss"], 6),
        loss=round(scores["loss"], 6),
        top1=scores["top1"],
        count=scores["count"],
    )


def differences(rows: Sequence[Row]) -> list[float]:
    """Attention's accuracy minus convolution's, for every seed that both have been trained with."""
    top1 = {(row.last_stage, row.seed): row.top1 for row in rows}
    return [
        value - top1["convolution", seed]
        for (name, seed), value in top1.items()
        if name == "attention" and ("convolution", seed) in top1
    ]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two or more normal values, and half the width of its 95 % interval (Student)."""
    quantile = float(students_t.ppf(0.975, len(values) - 1))
    return mean(values), quantile * stdev(values) / len(values) ** 0.5


def draw(rows: Sequence[Row]) -> Figure:
    """Draw every accuracy, those of equal seeds joined."""
    figure = new_figure(6.0, 4.4)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    axes = figure.subplots()
    names = list(NETWORKS)
    for seed in dict.fromkeys(row.seed for row in rows):
        pair = [row for row in rows if row.seed == seed]
        places = [names.index(row.last_stage) for row in pair]
        axes.plot(places, [100 * row.top1 for row in pair], color="0.8", linewidth=1, zorder=1)
    for row in rows:
        place, color = names.index(row.last_stage), NETWORKS[row.last_stage][1]
        axes.plot(place, 100 * row.top1, "o", color=color, markersize=6)
    style_chart(axes, f"Top-1 accuracy (%) on {rows[0].count:,} images, equal seeds joined")
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel("last stage", color=INK_COLOR)
    return figure


def run(arguments: Sequence[str]) -> int:
    """Train every network with every seed, the networks in turn."""
    use_cpu()
    keep_freed_memory()
    parser = make_parser("last-stage", __doc__)
    parser.add_argument("data", type=Path, help="a folder of small images with train/ and test/")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="one run each"
    )
    parser.add_argument("--epochs", type=at_least_one, default=5, help="of every run")
    options = parser.parse_args(arguments)
    splits = load_splits(str(options.data), validation_fraction=0.0)
    if splits.test is None:
        raise ConfigError(f"{options.data} has no images to score; add test/")
    results = Results(options, "last-stage", draw=draw, columns=COLUMNS)
    console = Console(stderr=True, emoji=False)
    for seed in dict.fromkeys(options.seeds):
        for name in NETWORKS:
            setup = make_setup(name, str(options.data), splits, seed=seed, epochs=options.epochs)
            directory = RunDirectory(options.out / "last-stage" / f"{name}-{seed}")
            console.print(f"{name}, seed {seed}")
            results.add([train_one(name, setup, directory, console)])
    found = differences(results.rows)
    if len(found) > 1 and not options.json:
        middle, half = mean_and_interval(found)
        print(
            f"attention − convolution: {100 * middle:+.2f} ± {100 * half:.2f} points of accuracy "
            f"(95 % interval of {len(found)} pairs, Student's t)"
        )
    return results.finish()
