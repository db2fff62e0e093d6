"""Conversion between other projects' checkpoints and this package's models, in both directions."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.checkpoints.pretrained_files import CONFIG, WEIGHTS
from bottleneck_transformer_flax.conversion.distribuuuu import DISTRIBUUUU
from bottleneck_transformer_flax.conversion.mapping import (
    Arrays,
    MappedArray,
    Project,
    to_flax,
    to_torch,
)
from bottleneck_transformer_flax.conversion.public_weights import ProjectName
from bottleneck_transformer_flax.conversion.timm import TIMM, timm_config
from bottleneck_transformer_flax.conversion.torch_files import write_safetensors
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError, first_of
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.surgery import RELATIVE_TABLES
from bottleneck_transformer_flax.models.variants import find_variant, get_config, get_variant
from bottleneck_transformer_flax.preprocessing import Preprocessing

PROJECTS: dict[ProjectName, Project] = {"timm": TIMM, "distribuuuu": DISTRIBUUUU}


def project_of(variant: str) -> Project:
    """Find the project that a variant's checkpoints come from.

    Raises:
        ConfigError: when the variant is unknown, or no other project has it.
    """
    get_variant(variant)
    for project in PROJECTS.values():
        if variant in project.variants:
            return project
    known = [name for project in PROJECTS.values() for name in project.variants]
    raise ConfigError(
        f"no other project's {variant} is known; these can be imported: {', '.join(known)}"
    )


def convert_arrays(
    arrays: Arrays,
    variant: str,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
    source: str,
) -> Pretrained:
    """Build the model that a checkpoint's arrays belong to.

    Args:
        arrays: float32 arrays by their names in the checkpoint.
        variant: architecture of the model.
        preprocessing: how images become model input.
        classes: names of the outputs; by default ImageNet's for a thousand outputs, else numbers.
        source: name of the checkpoint in messages.

    Raises:
        CheckpointError: when arrays do not fit; the message counts them, and names the first.
        ConfigError: when no other project has the variant, or the number of class names is wrong.
    """
    project = project_of(variant)
    head = arrays.get(project.head_bias)
    outputs = 1000 if head is None else max(1, head.size)
    model = BoTNet(config=get_config(variant, num_classes=outputs))
    mapping = list(project.mapping(model.config))
    expected = flatten_dict(abstract_variables(model, preprocessing.size), sep=".")
    try:
        converted = to_flax(mapping, arrays, expected)
    except CheckpointError as error:
        name, size = f"{variant} of {project.name}", preprocessing.size
        if {mapped.torch_name for mapped in mapping} == arrays.keys():
            trained_size = _trained_size(mapping, arrays, expected, size)
            problem = _unusable(name, trained_size, size)
        elif prefixed := _prefixed(mapping, arrays, project.head_bias):
            raise CheckpointError(f"{source} {prefixed}") from error
        else:
            problem = f"is not a {name}{_other_model(arrays)}"
        raise CheckpointError(f"{source} {problem}: {error}") from error
    if classes is None:
        numbered = tuple(f"class {index}" for index in range(outputs))
        classes = imagenet.class_names() if outputs == 1000 else numbered
    check_classes(classes, outputs, source)
    # Unlike jnp.asarray, this compiles no program for each shape.
    variables = unflatten_dict(jax.device_put(converted), sep=".")
    return Pretrained(model, variables, preprocessing, classes)


def check_classes(classes: tuple[str, ...], outputs: int, source: str) -> None:
    """Check that there is a name for every output.

    Raises:
        ConfigError: when there is not.
    """
    if len(classes) != outputs:
        raise ConfigError(
            f"there are {len(classes)} class names for the {outputs} outputs of {source}; give as "
            "many names (--classes)"
        )


def export_checkpoint(pretrained: Pretrained, path: str | Path, project: ProjectName) -> str:
    """Write a ``.safetensors`` file that another project loads as its own.

    Returns:
        Variant of the model.

    Raises:
        CheckpointError: when the project has no such model, or its batch norms are folded.
    """
    config, known = pretrained.model.config, PROJECTS[project].variants
    if config.folded_batch_norm:
        raise CheckpointError(
            f"the batch norms of this model are folded into its weights, which {project} does not "
            "support; export the model that it was folded from"
        )
    variant = find_variant(config)
    if variant is None or variant.name not in known:
        found = "none of the variants" if variant is None else variant.name
        raise CheckpointError(
            f"this model is {found}, which {project} does not have; it has {', '.join(known)}"
        )
    variables = flatten_dict(jax.device_get(pretrained.variables), sep=".")
    arrays = to_torch(list(PROJECTS[project].mapping(config)), variables)
    write_safetensors(Path(path), arrays)
    return variant.name


def write_timm_repository(pretrained: Pretrained, folder: Path, licence: str | None) -> None:
    """Write the files that make a repository one of timm's: its configuration and its weights.

    Args:
        pretrained: a model of one of timm's variants.
        folder: an empty folder.
        licence: licence of the weights.

    Raises:
        CheckpointError: as ``export_checkpoint``.
    """
    variant = export_checkpoint(pretrained, folder / WEIGHTS, "timm")
    config = json.dumps(timm_config(pretrained, variant, licence), indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(f"{config}\n", encoding="utf-8")


def is_of_timm(pretrained: Pretrained) -> bool:
    """Whether timm has this model."""
    variant = find_variant(pretrained.model.config)
    return variant is not None and variant.name in PROJECTS["timm"].variants


def _unusable(name: str, trained_size: tuple[int, int] | None, size: tuple[int, int]) -> str:
    """Why a checkpoint with the names of the right model cannot be used at a size."""
    if trained_size is None:
        return f"has the names of a {name}, but cannot be used as one"
    height, width = trained_size
    return (
        f"has relative position tables for {height} × {width} pixels, not for {size[0]} × "
        f"{size[1]}; give this size as image_size (--image-size {height} {width})"
    )


def _prefixed(mapping: Sequence[MappedArray], arrays: Arrays, head_bias: str) -> str:
    """Say which arrays lack the prefix of a model that is there whole; empty if there is none."""
    for name in arrays:
        prefix = name.removesuffix(head_bias)
        if prefix in (name, "") or any(
            prefix + mapped.torch_name not in arrays for mapped in mapping
        ):
            continue
        others = sorted(other for other in arrays if not other.startswith(prefix))
        if others:
            return (
                f"has arrays beside the model: the names of all but {len(others):,} of its "
                f"{len(arrays):,} arrays begin with {prefix!r}; save a file without the others: "
                f"{first_of(others)}"
            )
    return ""


def _trained_size(
    mapping: Sequence[MappedArray],
    arrays: Arrays,
    expected: Mapping[str, Any],
    size: tuple[int, int],
) -> tuple[int, int] | None:
    """Image size that a checkpoint's relative tables were trained at; None if that is ``size``.

    Grids shrink by fixed strides, so the largest grid tells the size of the image.
    """
    found, fitting = [0, 0], [0, 0]
    for torch_name, flax_names, _ in mapping:
        for axis, table in enumerate(RELATIVE_TABLES):
            if flax_names[0].endswith(table):
                found[axis] = max(found[axis], len(arrays[torch_name]))
                fitting[axis] = max(fitting[axis], expected[flax_names[0]].shape[0])
    if found == fitting:
        return None
    # A grid of n positions along an axis has a table of 2 n - 1 rows.
    height, width = (
        math.ceil(side / ((fits + 1) // 2)) * ((rows + 1) // 2)
        for side, fits, rows in zip(size, fitting, found, strict=True)
    )
    return height, width


def _other_model(arrays: Arrays) -> str:
    """Name a known model that has arrays of these names; empty if there is none."""
    if any(name.startswith("params.") for name in arrays):
        return ", but has this package's own names: name its folder as --checkpoint instead"
    for project in PROJECTS.values():
        for variant in project.variants:
            mapping = project.mapping(get_config(variant))
            if {mapped.torch_name for mapped in mapping} == arrays.keys():
                return f", but has the names of {variant} of {project.name}"
    return ""
