"""Import of a file, folder or hub repository: a pretrained model and a card with its origin."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from bottleneck_transformer_flax.checkpoints.hub import (
    at_commit,
    download_repository,
    is_repository,
    means_repository,
)
from bottleneck_transformer_flax.checkpoints.model_cards import card_metadata, licence_of_card
from bottleneck_transformer_flax.checkpoints.pretrained import (
    Pretrained,
    at_size,
    read_pretrained,
)
from bottleneck_transformer_flax.checkpoints.pretrained_files import (
    CARD,
    CONFIG,
    FILES,
    REQUIRED,
    WEIGHTS,
)
from bottleneck_transformer_flax.conversion.convert import (
    check_classes,
    convert_arrays,
    project_of,
)
from bottleneck_transformer_flax.conversion.mapping import Arrays
from bottleneck_transformer_flax.conversion.public_weights import (
    PUBLIC_WEIGHTS,
    PublicWeights,
    published_weights,
)
from bottleneck_transformer_flax.conversion.timm import TIMM, TimmConfig, read_timm_config
from bottleneck_transformer_flax.conversion.torch_files import read_arrays
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.models.variants import find_variant, get_variant
from bottleneck_transformer_flax.own_output import has_our_format
from bottleneck_transformer_flax.preprocessing import Preprocessing

PICKLED_WEIGHTS = "pytorch_model.bin"


class Imported(NamedTuple):
    """A converted model.

    Attributes:
        pretrained: model ready for inference.
        card: model card in Markdown; None if this package's own repository has none.
        variant: name of its architecture; None for one of this package's without a name.
        licence: licence of the weights; None if not stated.
        published: accuracy reported for exactly these weights; None if unknown.
    """

    pretrained: Pretrained
    card: str | None
    variant: str | None
    licence: str | None
    published: PublicWeights | None


class _Source(NamedTuple):
    """Arrays of a checkpoint, and everything known about them."""

    arrays: Arrays
    variant: str
    preprocessing: Preprocessing
    origin: str
    note: str = ""
    classes: tuple[str, ...] | None = None
    licence: str | None = None
    published: PublicWeights | None = None
    repository: str | None = None


def import_checkpoint(
    source: str | Path,
    *,
    variant: str | None = None,
    image_size: tuple[int, int] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Imported:
    """Convert a file of another project, or a repository of the Hugging Face hub.

    Args:
        source: file (see ``read_arrays``), or "owner/name" or "owner/name@revision" of a repository
            in timm's format or in this package's own, or folder with a copy of one in timm's.
        variant: architecture of a file's weights; a repository or its copy states its own.
        image_size: (height, width) the model was trained at; by default the published size.
        classes: names of the outputs; by default the repository's, or else ImageNet's for a
            thousand outputs and numbers for any other count.

    Raises:
        CheckpointError: when the source cannot be read, or holds another model; the message counts
            the arrays that are missing, left over or of another shape, and names the first.
        ConfigError: when the variant is missing, unknown or not another project's, or the number of
            class names is wrong.
    """
    on_hub = not isinstance(source, Path) and means_repository(source)
    config = Path(source) / CONFIG
    is_folder = not on_hub and config.is_file() and not has_our_format(config)
    if variant is not None and (on_hub or is_folder):
        kind = "repository" if on_hub else "folder"
        raise ConfigError(f"{source} is a {kind}, which states its model; omit --variant")
    if on_hub:
        source = str(source)
        folder = download_repository(source, [CONFIG], required=[CONFIG])
        if has_our_format(folder / CONFIG):
            return _import_own(at_commit(source, folder), image_size, classes)
        opened = _open_repository(source, folder)
    elif is_folder:
        opened = _open_folder(Path(source))
    else:
        opened = _open_file(source, variant)
    preprocessing = opened.preprocessing
    if image_size is not None:
        preprocessing = preprocessing.replace(size=image_size)
    names = opened.classes if classes is None else classes
    pretrained = convert_arrays(opened.arrays, opened.variant, preprocessing, names, str(source))
    card = _card(opened, pretrained)
    return Imported(pretrained, card, opened.variant, opened.licence, opened.published)


def _open_file(source: str | Path, variant: str | None) -> _Source:
    path = Path(source)
    if not path.exists():
        expected = (
            f" in the folder {str(path.parent)!r}; for the repository of the Hugging Face hub, "
            f"write {source}@main"
            if is_repository(str(source))
            else "; expected a file, a folder with a copy of a repository, or a repository of the "
            "Hugging Face hub such as timm/botnet26t_256.c1_in1k"
        )
        raise CheckpointError(f"{source} does not exist{expected}")
    arrays = read_arrays(path)
    if variant is None:
        raise ConfigError(
            f"{source} does not say which model it holds; name it with --variant, such as "
            "--variant botnet26t_256"
        )
    project = project_of(variant)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = f"the file `{path.name}` (SHA-256 `{digest}`), with the names of {project.name}"
    published = published_weights(variant, project.name)
    if published is None:
        preprocessing = Preprocessing(size=get_variant(variant).image_size, crop=project.crop)
        return _Source(arrays, variant, preprocessing, origin)
    note = (
        f"{project.name} has published weights of this model: top-1 {published.top1} %, top-5 "
        f"{published.top5} % on ImageNet, licence {published.licence}, at {published.url}. "
        "Only the origin of the file can tell whether it holds those."
    )
    return _Source(arrays, variant, published.preprocessing, origin, note)


def _open_repository(repository: str, folder: Path) -> _Source:
    """Open a repository in timm's format; ``folder`` holds its configuration."""
    config = _read_config(folder, repository)
    # Everything is read at the configuration's commit, whatever is uploaded meanwhile.
    commit, name = at_commit(repository, folder), repository.partition("@")[0]
    for weights in (WEIGHTS, PICKLED_WEIGHTS):
        folder = download_repository(commit, [CONFIG, weights])
        if (folder / weights).is_file():
            break
    licence = licence_of_card(download_repository(commit, [CONFIG, CARD])) or config.licence
    source = _Source(
        read_arrays(_weights_in(folder, repository)),
        config.architecture,
        config.preprocessing,
        origin=f"[{repository}](https://huggingface.co/{name})",
        classes=config.classes,
        licence=licence,
        repository=name,
    )
    # Another revision may hold other weights than the published ones.
    rows = (row for row in PUBLIC_WEIGHTS if row.name == repository.removesuffix("@main"))
    published = next(rows, None)
    if published is None:
        return source
    note = (
        f"Top-1 {published.top1} % and top-5 {published.top5} % on ImageNet-1k, as timm reports; "
        "not measured again here."
    )
    return source._replace(note=note, licence=licence or published.licence, published=published)


def _open_folder(folder: Path) -> _Source:
    """Open a folder with a copy of a repository in timm's format."""
    config = _read_config(folder, str(folder))
    return _Source(
        read_arrays(_weights_in(folder, str(folder))),
        config.architecture,
        config.preprocessing,
        origin=f"the folder `{folder.resolve().name}`, in timm's format",
        classes=config.classes,
        licence=licence_of_card(folder) or config.licence,
    )


def _read_config(folder: Path, source: str) -> TimmConfig:
    """Read the configuration of a model, and check that this package has it."""
    config = read_timm_config(folder / CONFIG, source)
    if config.architecture not in TIMM.variants:
        raise CheckpointError(
            f"{source} is a {config.architecture}, which this package does not have; of timm's "
            f"models it has {', '.join(TIMM.variants)}"
        )
    return config


def _weights_in(folder: Path, source: str) -> Path:
    """Find the weights, preferably in the format that cannot hold code."""
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{source} has neither {WEIGHTS} nor {PICKLED_WEIGHTS}")


def _import_own(
    repository: str, image_size: tuple[int, int] | None, classes: tuple[str, ...] | None
) -> Imported:
    """Load a repository in this package's own format, with its card."""
    folder = download_repository(repository, FILES, required=REQUIRED)
    pretrained = at_size(read_pretrained(folder), image_size)
    if classes is not None:
        check_classes(classes, len(pretrained.classes), repository)
        pretrained = pretrained._replace(classes=classes)
    has_card = (folder / CARD).is_file()
    card = (folder / CARD).read_text(encoding="utf-8", errors="replace") if has_card else None
    variant = find_variant(pretrained.model.config)
    name = None if variant is None else variant.name
    return Imported(pretrained, card, name, licence_of_card(folder), None)


def _card(source: _Source, pretrained: Pretrained) -> str:
    published, project = source.published, project_of(source.variant).name
    metadata = card_metadata(
        model_name=source.variant,
        dataset_name="ImageNet-1k",
        metrics=({"top1": published.top1 / 100, "top5": published.top5 / 100} if published else {}),
        licence=source.licence,
        base_model=source.repository,
    )
    made_by = f"trained by {project}" if published else f"in the format of {project}"
    height, width = pretrained.preprocessing.size
    card = f"""{metadata}
# {source.variant}, {len(pretrained.classes)} classes

A Bottleneck Transformer (arXiv 2101.11605) {made_by}, its weights converted for
`bottleneck-transformer-flax` unchanged.

| | |
|---|---|
| origin | {source.origin} |
| licence | {source.licence or "not stated"} |
| input | {height} × {width} pixels |

{source.note}
"""
    return card.rstrip() + "\n"
