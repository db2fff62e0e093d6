"""``botnet import``: another project's checkpoint as a pretrained directory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bottleneck_transformer_flax.checkpoints.hub import means_repository
from bottleneck_transformer_flax.cli import options
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError, DataError
from bottleneck_transformer_flax.preprocessing import checked_image_size

if TYPE_CHECKING:
    from bottleneck_transformer_flax.conversion.convert import Imported


@dataclass(frozen=True)
class ImportOptions:
    """Make a pretrained directory of another project's checkpoint.

    Known are timm's BoTNets and BIGBALLON/distribuuuu's botnet50; `botnet variants` shows which
    weights are public. Nothing in a file is ever executed. What is in the cache of the Hugging
    Face hub needs no network.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A repository of the Hugging Face hub, such as timm/botnet26t_256.c1_in1k, or a file that
    ends in .safetensors, .pth, .pt, .bin or .tar."""
    out: Path
    """The pretrained directory to write."""
    variant: str | None = None
    """The model that a file is of; `botnet variants` lists them. A repository says it itself."""
    image_size: tuple[int, int] | None = None
    """Height and width that it was trained at; by default those of the published weights."""
    classes: Path | None = None
    """A text file with the names of the outputs, one a line; by default those that the repository
    gives, or ImageNet's for a thousand outputs."""
    json: bool = False
    """Print what was written as one JSON line."""


def run(arguments: Sequence[str]) -> int:
    """The command."""
    parsed = options.parse(ImportOptions, "import", arguments)
    if parsed.image_size is not None:
        checked_image_size(parsed.image_size)
    classes = None if parsed.classes is None else _read_classes(parsed.classes)

    # jax, which takes a second to import, only now: help and bad usage are answered at once.
    from bottleneck_transformer_flax.checkpoints.pretrained import (
        check_replaceable,
        save_pretrained,
    )

    check_replaceable(parsed.out.resolve())
    imported = _import(parsed, classes)
    directory = save_pretrained(parsed.out, *imported.pretrained, card=imported.card)
    described = _description(parsed.source, imported, directory)
    if parsed.json:
        print(json.dumps(described))
    else:
        _print(described, parsed.out)
    return 0


def _import(parsed: ImportOptions, classes: tuple[str, ...] | None) -> "Imported":
    from bottleneck_transformer_flax.conversion.convert import (
        import_local,
        import_repository,
    )

    path = Path(parsed.source)
    if "://" in parsed.source:
        raise CheckpointError(
            f"{parsed.source} is an address; expected a file, or the name of a repository of the "
            "Hugging Face hub, such as timm/botnet26t_256.c1_in1k"
        )
    if means_repository(parsed.source):
        if parsed.variant is not None:
            raise ConfigError(
                f"{parsed.source} is a repository, which says itself what model it is; leave out "
                "--variant"
            )
        return import_repository(parsed.source, image_size=parsed.image_size, classes=classes)
    if not path.exists():
        raise CheckpointError(
            f"{parsed.source} does not exist; expected a file, or a repository of the Hugging "
            "Face hub such as timm/botnet26t_256.c1_in1k (with @main where there is a folder timm)"
        )
    if parsed.variant is None:
        raise ConfigError(
            f"it is not known what model {parsed.source} is of; name it with --variant, such as "
            "--variant botnet26t_256"
        )
    return import_local(path, parsed.variant, image_size=parsed.image_size, classes=classes)


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8; expected a class name a line") from error
    if not all(name.strip() for name in names) or len(set(names)) < len(names):
        raise DataError(f"{path} has empty lines, or a name twice; expected a class name a line")
    return names


def _description(source: str, imported: "Imported", directory: Path) -> dict[str, Any]:
    from bottleneck_transformer_flax.models.flops import count_parameters

    pretrained, published = imported.pretrained, imported.published
    return {
        "source": source,
        "variant": imported.variant,
        "parameters": count_parameters(pretrained.variables),
        "image_size": pretrained.preprocessing.size,
        "num_classes": len(pretrained.classes),
        "licence": imported.licence,
        "published_top1": None if published is None else published.top1 / 100,
        "published_top5": None if published is None else published.top5 / 100,
        "directory": str(directory),
    }


def _print(described: dict[str, Any], out: Path) -> None:
    height, width = described["image_size"]
    print(
        f"model    {described['variant'] or 'custom'}, {described['parameters']:,} parameters, "
        f"{described['num_classes']} classes, {height} × {width} pixels"
    )
    print(f"from     {described['source']}")
    if described["published_top1"] is not None:
        print(
            f"         published: ImageNet top-1 {100 * described['published_top1']:.3f} %, "
            f"top-5 {100 * described['published_top5']:.3f} %"
        )
    print(f"licence  {described['licence'] or 'not stated'}")
    print(f"written  {out}")
    print(f"next: {options.command_line('predict', '--checkpoint', out)} IMAGE")
