"""``botnet variants``: the models by name, with their size, cost and published weights."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import say
from bottleneck_transformer_flax.conversion.public_weights import PUBLIC_WEIGHTS
from bottleneck_transformer_flax.models.variants import VARIANTS, Variant


@dataclass(frozen=True)
class VariantsOptions:
    """List the models, with their size, cost and published weights.

    Parameters are the trainable ones; multiply-adds are those of all convolutions and matrix
    products for one image of the given size. The paper's figures stand beside ours; the README
    explains where and why they differ.
    """

    json: bool = False
    """Print a list in JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(VariantsOptions, "variants", arguments)
    if parsed.json:
        print(json.dumps([_as_json(variant) for variant in VARIANTS.values()], indent=2))
        return 0
    table = Table("variant", "stages", "input", box=None, pad_edge=False)
    for heading in ("parameters", "paper", "M.Adds", "paper", "paper's top-1"):
        table.add_column(heading, justify="right")
    for variant in VARIANTS.values():
        table.add_row(
            variant.name,
            ",".join(map(str, variant.config.stage_sizes)),
            str(variant.size),
            f"{variant.parameters:,}",
            _text(variant.published_parameters, "{} M"),
            f"{variant.multiply_adds / 1e9:.2f} B",
            _text(variant.published_multiply_adds, "{} B"),
            _text(variant.published_top1, "{} %"),
        )
    console = Console()
    if not console.is_terminal:
        # A table for a pipe or a file must not be folded.
        console.width = 200
    console.print(table)
    say(console, "", "Published weights:")
    for weights in PUBLIC_WEIGHTS:
        scores = f"top-1 {weights.top1:g} %, top-5 {weights.top5:g} % of {weights.data}"
        # The command has a line of its own, to be copied.
        say(console, "", f"{weights.variant:<20} {scores}; {weights.licence}")
        say(console, f"    {weights.command}")
        if " FILE " in weights.command:
            say(console, f"    FILE: download it from {weights.url}")
    return 0


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _as_json(variant: Variant) -> dict[str, Any]:
    """A variant with plain counts and with accuracies as fractions, for JSON."""
    weights = [
        dataclasses.asdict(row)
        | {"top1": _scaled(row.top1, 0.01), "top5": _scaled(row.top5, 0.01)}
        | {"command": row.command}
        for row in PUBLIC_WEIGHTS
        if row.variant == variant.name
    ]
    return {
        "name": variant.name,
        "image_size": variant.image_size,
        "source": variant.source,
        "parameters": variant.parameters,
        "multiply_adds": variant.multiply_adds,
        "published_parameters": _scaled(variant.published_parameters, 1e6),
        "published_multiply_adds": _scaled(variant.published_multiply_adds, 1e9),
        "published_top1": _scaled(variant.published_top1, 0.01),
        "weights": weights,
        "config": variant.config.to_json(),
    }


def _scaled(value: float | None, factor: float) -> float | None:
    """A value times a factor, without the digits that float arithmetic adds."""
    return None if value is None else round(value * factor, 6)
