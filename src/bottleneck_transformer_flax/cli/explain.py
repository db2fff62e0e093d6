"""``botnet explain IMAGE``: a picture of what a model attends to."""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import spinner
from bottleneck_transformer_flax.decoding import ImageInput, allow_pixels

if TYPE_CHECKING:
    from bottleneck_transformer_flax.inference.explain import Explanation


@dataclass(frozen=True)
class ExplainOptions:
    """Draw what a model attends to in an image.

    For each head of an attention block: where it looks from a position, and where it would look by
    content or by relative position alone. Beside them the attention rollout through all blocks,
    Grad-CAM of the likeliest class, and the relative tables that the block has learned.
    """

    image: tyro.conf.Positional[str]
    """An image file, or - for an image on standard input."""
    out: Path | None = None
    """The .png file to write; by default the image's name with -attention.png."""
    at: Annotated[
        tuple[tuple[int, int], ...],
        tyro.conf.arg(metavar="ROW COLUMN ..."),
    ] = ()
    """Positions to look from, counted from 0 in the block's grid; by default the one where the
    evidence for the likeliest class is largest."""
    block: str | None = None
    """The block to show, such as c5/block_1; by default the last that attends."""
    checkpoint: options.Checkpoint = None
    image_size: options.InferenceSize = None
    max_pixels: options.MaxPixels = None
    json: bool = False
    """Print everything that the picture shows as one line of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(ExplainOptions, "explain", arguments)
    out = parsed.out or Path(f"{_stem(parsed.image)}-attention.png")
    from bottleneck_transformer_flax.figures.style import check_png_path, save_png

    check_png_path(out)
    from bottleneck_transformer_flax.conversion.loading import load_pretrained
    from bottleneck_transformer_flax.inference.explain import explain

    allow_pixels(parsed.max_pixels)
    checkpoint, _ = options.choose_checkpoint(parsed.checkpoint)
    pretrained = load_pretrained(checkpoint, image_size=parsed.image_size)
    image: ImageInput = parsed.image
    if parsed.image == "-":
        image = io.BytesIO(b"" if sys.stdin is None else sys.stdin.buffer.read())
    with spinner(f"explaining {parsed.image}"):
        found = explain(pretrained, image, positions=parsed.at, block=parsed.block)
        save_png(_draw(found, parsed.image), out)
    if parsed.json:
        described = {"checkpoint": checkpoint, "image": parsed.image, "out": str(out)}
        print(json.dumps(described | _values(found)))
    else:
        name, probability = found.ranking[0]
        print(f"model    {checkpoint}")
        print(f"class    {name}  {100 * probability:.2f} %")
        print(f"written  {out}")
    return 0


def _stem(image: str) -> str:
    """Name of the picture without its ending: beside no image, but in the current folder."""
    return "image" if image == "-" else Path(image).stem


def _draw(found: "Explanation", image: str) -> Any:
    from bottleneck_transformer_flax.figures.attention import AttentionFrom, draw_attention

    rows, columns = found.heads[0].weights.shape[-2:]
    return draw_attention(
        found.photo,
        title=f"{'image' if image == '-' else Path(image).name}: attention of {found.block}, "
        f"{rows} × {columns} positions",
        ranking=found.ranking,
        overviews=[
            (f"Grad-CAM of {found.ranking[0][0]}", found.grad_cam),
            ("attention rollout", found.rollout),
        ],
        views=[
            AttentionFrom(
                each.position,
                [
                    (f"attention\nfrom {each.position}", each.weights),
                    ("content alone", each.content),
                    ("position alone", each.relative),
                ],
            )
            for each in found.heads
        ],
        tables=[
            ("relative table of rows, by offset", found.tables[0]),
            ("relative table of columns, by offset", found.tables[1]),
        ],
    )


def _values(found: "Explanation") -> dict[str, Any]:
    return {
        "predictions": [
            {"class": name, "probability": probability} for name, probability in found.ranking
        ],
        "block": found.block,
        "attention": [
            {
                "position": each.position,
                "weights": each.weights.tolist(),
                "content": each.content.tolist(),
                "relative": each.relative.tolist(),
            }
            for each in found.heads
        ],
        "rollout": found.rollout.tolist(),
        "grad_cam": found.grad_cam.tolist(),
        "relative_height": found.tables[0].tolist(),
        "relative_width": found.tables[1].tolist(),
    }
