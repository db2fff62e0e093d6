"""``botnet export``: a model as a file that runs without this package."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.cli.console import spinner
from bottleneck_transformer_flax.cli.model_images import choose_images, images_of
from bottleneck_transformer_flax.errors import ConfigError

if TYPE_CHECKING:
    from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained

Format = Literal["onnx", "int8", "html", "stablehlo", "triton", "timm"]
_BY_SUFFIX: dict[str, Format] = {
    ".onnx": "onnx",
    ".html": "html",
    ".stablehlo": "stablehlo",
    ".safetensors": "timm",
}


@dataclass(frozen=True)
class ExportOptions:
    """Write a model as a file that runs without this package.

    onnx: one file for onnxruntime, OpenVINO and others, which `botnet predict`, `evaluate` and
    `features` take too. int8: the same, quantised, with ranges from the training images, and scored
    beside float32 on the others. html: a page that classifies in the browser, and shows where the
    model looks; a folder with such a page for models above 30 MB. stablehlo: a file for JAX alone.
    triton: a folder for NVIDIA Triton and KServe. timm: a .safetensors file that timm loads with
    strict=True; only timm's own variants have one.

    Every file but timm's takes RGB images of uint8, (batch, height, width, 3), of the model's size
    and gives probabilities; it is compared with the model before it gets its name.
    """

    out: Path
    """The file to write; for triton the model repository."""
    format: Format | None = None
    """What to write; by default as the ending of --out says: .onnx, .html, .stablehlo, or
    .safetensors for timm."""
    checkpoint: options.Checkpoint = None
    image_size: options.InferenceSize = None
    raw: bool = False
    """Take normalised float32 images and give logits."""
    with_features: bool = False
    """Also give the pooled features."""
    with_attention: bool = False
    """Also give the attention weights of every BoT block, (batch, head, row, column, row,
    column)."""
    name: str | None = None
    """Name of the model in Triton's repository, or title of the page; by default the variant's."""
    data: str | None = None
    """Images for int8, as for `botnet train`; by default those of the model's run."""
    num_workers: options.NumWorkers = None
    skip_bad_images: options.SkipBadImages = False
    max_pixels: options.MaxPixels = None
    json: bool = False
    """Print a summary as one line of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parsed = options.parse(ExportOptions, "export", arguments)
    chosen = _format(parsed)
    outputs = (parsed.raw, parsed.with_features, parsed.with_attention)
    if chosen == "timm" and (any(outputs) or parsed.image_size):
        raise ConfigError(
            "timm's files hold weights alone; leave out --raw, --with-features, --with-attention "
            "and --image-size, or choose another --format"
        )
    if parsed.name is not None and chosen not in ("triton", "html"):
        raise ConfigError(f"--name is for triton and html; leave it out for {chosen}")
    if parsed.data is not None and chosen != "int8":
        raise ConfigError(f"--data is for int8; leave it out for {chosen}")
    if any(outputs) and chosen in ("int8", "html"):
        raise ConfigError(
            f"{chosen} has outputs of its own; leave out --raw, --with-features and "
            "--with-attention"
        )

    from bottleneck_transformer_flax.conversion.loading import load_pretrained

    checkpoint, _ = options.choose_checkpoint(parsed.checkpoint)
    pretrained = load_pretrained(checkpoint, image_size=parsed.image_size)
    summary = {"checkpoint": checkpoint, "format": chosen, "file": str(parsed.out)}
    lines = {"model": checkpoint, "written": str(parsed.out)}
    write = {"timm": _write_timm, "int8": _write_int8}.get(chosen, _write_proved)
    with spinner(f"exporting {checkpoint}"):
        values, told = write(parsed, chosen, checkpoint, pretrained)
    if parsed.json:
        print(json.dumps(summary | values))
    else:
        for label, text in (lines | told).items():
            print(f"{label:<8} {text}")
    return 0


def _format(parsed: ExportOptions) -> Format:
    found = parsed.format or _BY_SUFFIX.get(parsed.out.suffix)
    if found is None:
        raise ConfigError(
            f"--out is {parsed.out}, whose ending names no format; expected "
            f"{', '.join(_BY_SUFFIX)}, or a --format: {', '.join(get_args(Format))}"
        )
    return found


def _write_proved(
    parsed: ExportOptions, chosen: Format, checkpoint: str, pretrained: "Pretrained"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write a file that is compared with the model; values for JSON, and lines by their label."""
    from bottleneck_transformer_flax.export.functions import Outputs

    outputs = Outputs(
        raw=parsed.raw, features=parsed.with_features, attention=parsed.with_attention
    )
    described = _described(checkpoint, pretrained)
    if chosen == "stablehlo":
        from bottleneck_transformer_flax.export.stablehlo import write_stablehlo

        parity = write_stablehlo(pretrained, parsed.out, outputs=outputs)
    elif chosen == "html":
        from bottleneck_transformer_flax.export.page import write_page

        title = parsed.name or described["variant"] or "Bottleneck Transformer"
        opened, parity = write_page(pretrained, parsed.out, title=title, **described)
    elif chosen == "onnx":
        from bottleneck_transformer_flax.export.onnx import write_onnx

        parity = write_onnx(pretrained, parsed.out, outputs=outputs, **described)
    else:
        from bottleneck_transformer_flax.export.triton import write_triton

        name = parsed.name or described["variant"] or "botnet"
        parity = write_triton(pretrained, parsed.out, name=name, outputs=outputs, **described)
    values = {
        "variant": described["variant"],
        "image_size": pretrained.preprocessing.size,
        "num_classes": len(pretrained.classes),
        "differences": parity.differences,
    }
    told = {"compared": str(parity)}
    if chosen == "html":
        values["file"], told["written"] = str(opened), str(opened)
        told["next"] = "open it in a browser"
    elif chosen == "onnx":
        told["next"] = options.command_line("predict", "--checkpoint", parsed.out, "IMAGE")
    return values, told


def _write_int8(
    parsed: ExportOptions, chosen: Format, checkpoint: str, pretrained: "Pretrained"
) -> tuple[dict[str, Any], dict[str, str]]:
    """As ``_write_proved``, for a quantised file, which is scored instead of compared."""
    from bottleneck_transformer_flax.data.bad_images import BadImages
    from bottleneck_transformer_flax.data.sources.base import relabel
    from bottleneck_transformer_flax.decoding import allow_pixels
    from bottleneck_transformer_flax.export.int8 import write_int8

    allow_pixels(parsed.max_pixels)
    images = images_of(*options.choose_checkpoint(parsed.checkpoint))
    scored, split, data, _ = choose_images(images, parsed.data, None)
    calibration = scored
    if split != "all":
        calibration, *_ = choose_images(images, parsed.data, "train")
    bad_images = BadImages(skip=parsed.skip_bad_images)
    found = write_int8(
        pretrained,
        parsed.out,
        relabel(calibration, pretrained.classes),
        relabel(scored, pretrained.classes),
        num_workers=parsed.num_workers,
        bad_images=bad_images,
        **_described(checkpoint, pretrained),
    )
    if report := bad_images.report():
        print(report, file=sys.stderr)
    values, told = {}, {"scored": f"{len(scored):,} images of {data} ({split})"}
    for name, measured in found._asdict().items():
        values[name] = {
            "top1": measured.predictions.top1,
            "loss": measured.predictions.loss,
            "size_bytes": measured.size_bytes,
            "images_per_second": measured.images_per_second,
        }
        speeds = ", ".join(
            f"{speed:,.1f} images/s at batch {size}"
            for size, speed in measured.images_per_second.items()
        )
        told[name] = (
            f"top-1 {100 * measured.predictions.top1:.2f} %   {measured.size_bytes / 1e6:.1f} MB   "
            f"{speeds}"
        )
    return values, told


def _described(checkpoint: str, pretrained: "Pretrained") -> dict[str, Any]:
    """What a file says of where it comes from."""
    from bottleneck_transformer_flax.models.variants import find_variant

    variant = find_variant(pretrained.model.config)
    return {
        "variant": None if variant is None else variant.name,
        "origin": checkpoint,
        "licence": _licence(checkpoint),
    }


def _licence(checkpoint: str) -> str | None:
    """The licence that a model's card states, where it can be read."""
    from bottleneck_transformer_flax.checkpoints.model_cards import licence_of_card
    from bottleneck_transformer_flax.checkpoints.pretrained_files import find_pretrained
    from bottleneck_transformer_flax.errors import CheckpointError

    try:
        return licence_of_card(find_pretrained(checkpoint))
    except (CheckpointError, ImportError):
        return None


def _write_timm(
    parsed: ExportOptions, chosen: Format, checkpoint: str, pretrained: "Pretrained"
) -> tuple[dict[str, Any], dict[str, str]]:
    """As ``_write_proved``, for the format that holds weights alone."""
    from bottleneck_transformer_flax.conversion.convert import export_checkpoint
    from bottleneck_transformer_flax.conversion.timm import timm_image_size

    variant = export_checkpoint(pretrained, parsed.out, "timm")
    num_classes, image_size = len(pretrained.classes), pretrained.preprocessing.size
    img_size = timm_image_size(pretrained)
    values = {
        "variant": variant,
        "num_classes": num_classes,
        "image_size": image_size,
        "img_size": img_size,
    }
    call = (
        f"timm.create_model({variant!r}, num_classes={num_classes}, img_size={img_size}, "
        f"checkpoint_path={str(parsed.out)!r})"
    )
    return values, {"in timm:": call}
