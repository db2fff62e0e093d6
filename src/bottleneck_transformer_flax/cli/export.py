"""``botnet export``: a model as another project's checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bottleneck_transformer_flax.cli import options


@dataclass(frozen=True)
class ExportOptions:
    """Write a model as another project's checkpoint.

    timm's format is a .safetensors file that timm loads with strict=True; only timm's own
    variants have one.
    """

    out: Path
    """The .safetensors file to write."""
    checkpoint: options.Checkpoint = None
    format: Literal["timm"] = "timm"
    """The project that will load the file."""
    json: bool = False
    """Print a summary as one line of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(ExportOptions, "export", arguments)

    from bottleneck_transformer_flax.conversion.convert import export_checkpoint
    from bottleneck_transformer_flax.conversion.loading import load_pretrained

    checkpoint, _ = options.choose_checkpoint(parsed.checkpoint)
    pretrained = load_pretrained(checkpoint)
    variant = export_checkpoint(pretrained, parsed.out, parsed.format)
    num_classes, image_size = len(pretrained.classes), pretrained.preprocessing.size
    # timm rounds a grid's size down when it builds the tables, and up when it computes.
    stride = pretrained.model.config.total_stride
    img_size = tuple(-(-side // stride) * stride for side in image_size)
    if parsed.json:
        summary = {
            "checkpoint": checkpoint,
            "format": parsed.format,
            "variant": variant,
            "num_classes": num_classes,
            "image_size": image_size,
            "img_size": img_size,
            "file": str(parsed.out),
        }
        print(json.dumps(summary))
    else:
        print(f"model    {checkpoint}")
        print(f"written  {parsed.out}")
        print(
            f"in timm: timm.create_model({variant!r}, num_classes={num_classes}, "
            f"img_size={img_size}, checkpoint_path={str(parsed.out)!r})"
        )
    return 0
