"""Networks and their attention layer on the CPU, beside the peers that are installed."""

import argparse
from collections.abc import Iterator, Sequence
from typing import cast, get_args

from benchmarks.cases import Case, Workload
from benchmarks.figure import draw
from benchmarks.implementations import NETWORKS, FreedMemory
from benchmarks.options import (
    Results,
    add_implementations,
    add_rounds,
    at_least_one,
    installed,
    make_parser,
    use_cpu,
)
from benchmarks.results import progress
from benchmarks.timing import Pace, measure, started
from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.models.variants import get_variant

DESCRIPTIONS = {
    "inference": "Measure the logits of a batch of normalised images.",
    "export": "Measure this library's ONNX export beside PyTorch's of timm's network.",
    "training": "Measure a training step: an update of every parameter by SGD with momentum.",
    "attention": "Measure the last stage's attention layer over a grid.",
    "attention-training": "Measure the last stage's attention layer with all its gradients.",
}
_BATCH_SIZES = {"inference": [1, 8], "export": [1, 8], "training": [8]}


def run(workload: str, arguments: Sequence[str]) -> int:
    """Measure one workload."""
    options = _parser(workload).parse_args(arguments)
    use_cpu()
    cases = list(_cases(workload, options))
    names, skipped = installed(options.implementations, NETWORKS, workload, cases[0].row())
    results = Results(options, workload, draw=draw)
    for case in cases:
        # New processes for every case, so that the peak of their memory is the case's own.
        with started(NETWORKS, options.freed_memory) as workers, progress() as say:
            rows = measure(case, names, workers, Pace(rounds=options.rounds), say=say)
        results.add(rows)
    if skipped:
        results.add(skipped)
    return results.finish()


def _parser(workload: str) -> argparse.ArgumentParser:
    parser = make_parser(workload, DESCRIPTIONS[workload])
    add_rounds(parser, 7)
    parser.add_argument("--variant", default="botnet_t3", help="the network (default: %(default)s)")
    if workload.startswith("attention"):
        parser.add_argument(
            "--grids",
            nargs="+",
            type=at_least_one,
            default=[14, 32, 64],
            metavar="SIDE",
            help="positions along a side of the grid (default: 14 32 64)",
        )
    else:
        parser.add_argument(
            "--image-size",
            nargs=2,
            type=at_least_one,
            metavar=("HEIGHT", "WIDTH"),
            help="size of the images (default: the variant's)",
        )
    parser.add_argument(
        "--batch-sizes",
        nargs="+",
        type=at_least_one,
        default=_BATCH_SIZES.get(workload, [1]),
        metavar="COUNT",
        help="images or grids computed together (default: %(default)s)",
    )
    able = {name: each for name, each in NETWORKS.items() if workload in each.workloads}
    add_implementations(parser, able)
    parser.add_argument(
        "--freed-memory",
        choices=get_args(FreedMemory),
        default="kept",
        help="which processes ask glibc to keep freed memory, which makes each of them faster: "
        "all, this library's alone, or none (default: %(default)s)",
    )
    return parser


def _cases(workload: str, options: argparse.Namespace) -> Iterator[Case]:
    variant = get_variant(options.variant)
    if workload.startswith("attention"):
        if "A" not in variant.config.block_kinds(len(variant.config.stage_sizes) - 1):
            raise ConfigError(
                f"{options.variant} has no attention in its last stage, so no layer for "
                f"{workload}; choose a variant that has, such as botnet_t3"
            )
        sizes = [(side, side) for side in dict.fromkeys(options.grids)]
    else:
        height, width = options.image_size or variant.image_size
        sizes = [(height, width)]
    for size in sizes:
        for batch_size in dict.fromkeys(options.batch_sizes):
            yield Case(
                workload=cast(Workload, "inference" if workload == "export" else workload),
                section="export" if workload == "export" else "",
                variant=options.variant,
                config=variant.config,
                size=size,
                batch_size=batch_size,
            )
