"""``botnet import``: another project's checkpoint as a pretrained directory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.errors import DataError, reraise
from bottleneck_transformer_flax.preprocessing import checked_image_size


@dataclass(frozen=True)
class ImportOptions:
    """Convert another project's checkpoint into a pretrained directory.

    It reads timm's BoTNets and the botnet50 of BIGBALLON/distribuuuu; `botnet variants` lists the
    published weights. Nothing in a file is ever executed. A repository that is already in the cache
    of the Hugging Face hub needs no network.
    """

    source: tyro.conf.Positional[str]
    """A repository on the Hugging Face hub, a folder with a copy of one, or a .safetensors, .pth,
    .pt, .ckpt, .bin or .tar."""
    out: Path
    """The pretrained directory to write."""
    variant: str | None = None
    """Variant of the model in a file, from `botnet variants`; a repository states its own."""
    image_size: tuple[int, int] | None = None
    """Height and width it was trained at; by default those of the published weights."""
    classes: Path | None = None
    """Text file with a class name per line; by default the repository's, or ImageNet's 1,000."""
    json: bool = False
    """Print a summary as one line of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(ImportOptions, "import", arguments)
    if parsed.image_size is not None:
        checked_image_size(parsed.image_size)
    classes = None if parsed.classes is None else _read_classes(parsed.classes)

    # These import jax, which takes a second; help and bad usage are answered without it.
    from bottleneck_transformer_flax.checkpoints.pretrained import (
        check_replaceable,
        save_pretrained,
    )
    from bottleneck_transformer_flax.conversion.importing import import_checkpoint
    from bottleneck_transformer_flax.models.flops import count_parameters

    check_replaceable(parsed.out.resolve())
    imported = import_checkpoint(
        parsed.source, variant=parsed.variant, image_size=parsed.image_size, classes=classes
    )
    pretrained, published = imported.pretrained, imported.published
    directory = save_pretrained(parsed.out, *pretrained, card=imported.card)
    summary = {
        "source": parsed.source,
        "variant": imported.variant,
        "parameters": count_parameters(pretrained.variables),
        "image_size": pretrained.preprocessing.size,
        "num_classes": len(pretrained.classes),
        "licence": imported.licence,
        "published_top1": None if published is None else published.top1 / 100,
        "published_top5": None if published is None else published.top5 / 100,
        "directory": str(directory),
    }
    if parsed.json:
        print(json.dumps(summary))
    else:
        _print(summary, parsed.out)
    return 0


def _read_classes(path: Path) -> tuple[str, ...]:
    with reraise((OSError, ValueError), DataError, f"{path} cannot be read as UTF-8 text"):
        names = tuple(path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n"))
    if not all(name.strip() for name in names) or len(set(names)) < len(names):
        raise DataError(f"{path} has empty lines or a name twice; expected one class name per line")
    return names


def _print(summary: dict[str, Any], out: Path) -> None:
    height, width = summary["image_size"]
    print(
        f"model    {summary['variant'] or 'custom'}, {summary['parameters']:,} parameters, "
        f"{summary['num_classes']} classes, {height} × {width} pixels"
    )
    print(f"from     {summary['source']}")
    if summary["published_top1"] is not None:
        print(
            f"         published: ImageNet top-1 {100 * summary['published_top1']:.3f} %, "
            f"top-5 {100 * summary['published_top5']:.3f} %"
        )
    print(f"licence  {summary['licence'] or 'not stated'}")
    print(f"written  {out}")
    print(f"next: {options.command_line('predict', '--checkpoint', out)} IMAGE")
