"""What ``botnet import`` takes, a file or a repository, as a model with its card."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from bottleneck_transformer_flax.checkpoints.cards import card_metadata
from bottleneck_transformer_flax.checkpoints.hub import at_commit, card_licence, download_repository
from bottleneck_transformer_flax.checkpoints.locations import CARD, CONFIG, WEIGHTS, is_ours
from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained, load_pretrained
from bottleneck_transformer_flax.conversion.files import (
    PROJECTS,
    checked_classes,
    import_file,
)
from bottleneck_transformer_flax.conversion.public_weights import (
    PUBLIC_WEIGHTS,
    Project,
    PublicWeights,
    published_weights,
)
from bottleneck_transformer_flax.conversion.timm_repository import TimmModel, read_timm_config
from bottleneck_transformer_flax.errors import CheckpointError
from bottleneck_transformer_flax.models.variants import find_variant

PICKLED_WEIGHTS = "pytorch_model.bin"


class Imported(NamedTuple):
    """A model that another project trained.

    Attributes:
        pretrained: ready for inference.
        card: says where it is from, in Markdown; None for one of this package's own without.
        variant: the model that it is of; None for one of this package's own that has no name.
        licence: of the weights; None where it is not stated.
        published: what its project says of exactly these weights; None where it is not known.
    """

    pretrained: Pretrained
    card: str | None
    variant: str | None
    licence: str | None
    published: PublicWeights | None


def import_local(
    path: Path,
    variant: str,
    *,
    image_size: tuple[int, int] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Imported:
    """The model in a file; see ``import_file``.

    Raises:
        CheckpointError, ConfigError: as ``import_file`` does.
    """
    pretrained, project = import_file(path, variant, image_size=image_size, classes=classes)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = f"the file `{path.name}` (SHA-256 `{digest}`), with the names of {project}"
    published = published_weights(variant, project)
    note = None
    if published is not None:
        note = (
            f"{project} has published weights of this model: top-1 {published.top1} %, top-5 "
            f"{published.top5} % on ImageNet, licence {published.licence}, at {published.url}. "
            "Whether the file holds those, only where it is from can tell."
        )
    card = _card(pretrained, variant, project, origin, licence=None, published=None, note=note)
    return Imported(pretrained, card, variant, None, None)


def import_repository(
    repository: str,
    *,
    image_size: tuple[int, int] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Imported:
    """The model in a repository of the Hugging Face hub: one of timm's, or of this package.

    Args:
        repository: "owner/name", or "owner/name@revision".
        image_size: as for ``import_file``.
        classes: as for ``import_file``; by default those that the repository names.

    Raises:
        CheckpointError: when it cannot be had, or is of another model.
        ConfigError: as ``import_file`` does.
    """
    folder = download_repository(repository, [CONFIG], required=[CONFIG])
    # What is fetched later belongs to this configuration, whoever uploads meanwhile.
    commit = at_commit(repository, folder)
    if is_ours(folder / CONFIG):
        return _own(commit, image_size, classes)
    described = read_timm_config(folder / CONFIG, repository)
    known = PROJECTS["timm"].variants
    if described.architecture not in known:
        raise CheckpointError(
            f"{repository} is a {described.architecture}, which this package does not have; of "
            f"timm's models it has {', '.join(known)}"
        )
    pretrained, project = import_file(
        _weights(repository, commit),
        described.architecture,
        preprocessing=described.preprocessing,
        image_size=image_size,
        classes=_described_classes(described, repository) if classes is None else classes,
    )
    outputs = pretrained.model.config.num_classes
    if described.num_classes not in (None, outputs):
        raise CheckpointError(
            f"the config.json of {repository} says {described.num_classes} classes, but its "
            f"weights have {outputs} outputs"
        )
    name = repository.partition("@")[0]
    # Another revision may hold other weights than those that were published.
    current = repository.removesuffix("@main")
    published = next((row for row in PUBLIC_WEIGHTS if row.name == current), None)
    stated = card_licence(download_repository(commit, [CONFIG, CARD])) or described.licence
    licence = stated or (published.licence if published else None)
    card = _card(
        pretrained,
        described.architecture,
        project,
        f"[{repository}](https://huggingface.co/{name})",
        licence=licence,
        published=published,
        base_model=name,
    )
    return Imported(pretrained, card, described.architecture, licence, published)


def _own(
    repository: str, image_size: tuple[int, int] | None, classes: tuple[str, ...] | None
) -> Imported:
    pretrained = load_pretrained(repository, image_size=image_size)
    if classes is not None:
        pretrained = pretrained._replace(classes=checked_classes(classes, pretrained, repository))
    folder = download_repository(repository, [CONFIG, CARD])
    has_card = (folder / CARD).is_file()
    card = (folder / CARD).read_text(encoding="utf-8", errors="replace") if has_card else None
    variant = find_variant(pretrained.model.config)
    licence = card_licence(folder)
    return Imported(pretrained, card, None if variant is None else variant.name, licence, None)


def _described_classes(described: TimmModel, repository: str) -> tuple[str, ...] | None:
    names, outputs = described.classes, described.num_classes
    if names is not None and outputs not in (None, len(names)):
        raise CheckpointError(
            f"the config.json of {repository} names {len(names)} classes, and says that there are "
            f"{outputs}; give the names with --classes"
        )
    return names


def _weights(repository: str, commit: str) -> Path:
    """The file of the weights, in the form that holds no code where there is one."""
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        folder = download_repository(commit, [CONFIG, name])
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{repository} is on the hub but has neither {WEIGHTS} nor {PICKLED_WEIGHTS}"
    )


def _card(
    pretrained: Pretrained,
    variant: str,
    project: Project,
    origin: str,
    *,
    licence: str | None,
    published: PublicWeights | None,
    note: str | None = None,
    base_model: str | None = None,
) -> str:
    height, width = pretrained.preprocessing.size
    metrics = {}
    if published is not None:
        metrics = {"top1": published.top1 / 100, "top5": published.top5 / 100}
        note = (
            f"Top-1 {published.top1} % and top-5 {published.top5} % on ImageNet-1k, as {project} "
            "has published; not measured again here."
        )
    made_by = f"in the form of {project}" if published is None else f"trained by {project}"
    metadata = card_metadata(
        model_name=variant,
        dataset_name="ImageNet-1k",
        metrics=metrics,
        licence=licence,
        base_model=base_model,
    )
    return (
        f"""{metadata}
# {variant}, {len(pretrained.classes)} classes

A Bottleneck Transformer (arXiv 2101.11605) {made_by}, its weights carried over to
`bottleneck-transformer-flax` unchanged.

| | |
|---|---|
| origin | {origin} |
| licence | {licence or "not stated"} |
| input | {height} × {width} pixels |

{note or ""}
""".rstrip()
        + "\n"
    )
