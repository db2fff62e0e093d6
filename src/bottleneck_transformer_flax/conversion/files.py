"""Other projects' checkpoints to pretrained models, and back."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.checkpoints.pretrained import Pretrained
from bottleneck_transformer_flax.conversion import distribuuuu, timm
from bottleneck_transformer_flax.conversion.mapping import Rule, to_ours, to_theirs
from bottleneck_transformer_flax.conversion.public_weights import Project, published_weights
from bottleneck_transformer_flax.conversion.torch_files import read_foreign, write_foreign
from bottleneck_transformer_flax.data import imagenet
from bottleneck_transformer_flax.errors import CheckpointError, ConfigError
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.surgery import RELATIVE_TABLES
from bottleneck_transformer_flax.models.variants import find_variant, get_config, get_variant
from bottleneck_transformer_flax.preprocessing import Preprocessing


class ForeignProject(NamedTuple):
    """Another project's checkpoints: its models, and what their arrays are called.

    Attributes:
        variants: the models that it has.
        rules: of the model that a config describes.
        head_bias: the array with a value for each class.
        crop: of its preprocessing, where no published weights have another.
    """

    variants: tuple[str, ...]
    rules: Callable[[BoTNetConfig], Iterator[Rule]]
    head_bias: str
    crop: float


PROJECTS: dict[Project, ForeignProject] = {
    "timm": ForeignProject(
        ("botnet26t_256", "sebotnet33ts_256", "botnet50ts_256", "eca_botnext26ts_256"),
        timm.rules,
        "head.fc.bias",
        crop=0.95,
    ),
    "distribuuuu": ForeignProject(("botnet_s1_50",), distribuuuu.rules, "10.bias", crop=0.875),
}


class ImportedFile(NamedTuple):
    """What a file of another project holds, and whose names it has."""

    pretrained: Pretrained
    project: Project


def import_file(
    path: str | Path,
    variant: str,
    *,
    preprocessing: Preprocessing | None = None,
    image_size: tuple[int, int] | None = None,
    classes: tuple[str, ...] | None = None,
) -> ImportedFile:
    """A model of this package from a file of another project.

    Args:
        path: a ``.safetensors`` or PyTorch file (see ``read_foreign``).
        variant: the model it is of.
        preprocessing: how images become its input; by default as for the weights that the project
            has published, or as the variant describes.
        image_size: (height, width) it was trained at, where that differs from the preprocessing's.
        classes: the names of its outputs; by default ImageNet's for a thousand of them, and
            numbers for others.

    Raises:
        CheckpointError: when the file cannot be read, or is of another model; every array that is
            missing, left over or of another shape is listed.
        ConfigError: for a variant that no other project has, or as many class names as the model
            has not.
    """
    candidates = _projects_with(variant)
    arrays = read_foreign(Path(path))
    project = max(candidates, key=lambda name: _names_in_common(arrays, name, variant))
    head = arrays.get(PROJECTS[project].head_bias)
    config = get_config(variant, num_classes=1000 if head is None else max(1, head.size))
    if preprocessing is None:
        published = published_weights(variant, project)
        preprocessing = (
            Preprocessing(size=get_variant(variant).image_size, crop=PROJECTS[project].crop)
            if published is None
            else published.preprocessing
        )
    if image_size is not None:
        preprocessing = preprocessing.replace(size=image_size)
    model = BoTNet(config=config)
    expected = flatten_dict(abstract_variables(model, preprocessing.size), sep=".")
    rules = list(PROJECTS[project].rules(config))
    try:
        converted = to_ours(rules, arrays, expected)
    except CheckpointError as error:
        size = _trained_size(rules, arrays, expected, preprocessing.size)
        height, width = preprocessing.size
        what = (
            f"no {variant} of {project}{_what_it_is(arrays, variant)}"
            if size is None
            else f"of {size[0]} × {size[1]} pixels by its relative tables, and not of {height} × "
            f"{width}; give it as image_size (--image-size {size[0]} {size[1]})"
        )
        raise CheckpointError(f"{path} is {what}: {error}") from error
    if classes is None:
        classes = default_classes(config.num_classes)
    variables = unflatten_dict({name: jnp.asarray(a) for name, a in converted.items()}, sep=".")
    pretrained = Pretrained(model, variables, preprocessing, classes)
    checked_classes(classes, pretrained, path)
    return ImportedFile(pretrained, project)


def export_file(pretrained: Pretrained, path: str | Path, project: Project) -> str:
    """Write a ``.safetensors`` file that another project loads as its own.

    Returns:
        The variant that the model is.

    Raises:
        CheckpointError: when the project has no such model, or its batch norms are folded.
    """
    if pretrained.model.config.folded_batch_norm:
        raise CheckpointError(
            f"the batch norms of this model are folded into its weights, and {project}'s are not; "
            "export the model that it was folded from"
        )
    variant = find_variant(pretrained.model.config)
    known = PROJECTS[project].variants
    if variant is None or variant.name not in known:
        came = "none of the variants" if variant is None else variant.name
        raise CheckpointError(
            f"this model is {came}, which {project} does not have; it has {', '.join(known)}"
        )
    ours = flatten_dict(jax.device_get(pretrained.variables), sep=".")
    theirs = to_theirs(list(PROJECTS[project].rules(pretrained.model.config)), ours)
    write_foreign(Path(path), theirs)
    return variant.name


def checked_classes(
    classes: tuple[str, ...], pretrained: Pretrained, source: str | Path
) -> tuple[str, ...]:
    """Names for the outputs of a model.

    Raises:
        ConfigError: when they are not as many.
    """
    outputs = pretrained.model.config.num_classes
    if len(classes) != outputs:
        raise ConfigError(
            f"there are {len(classes)} class names for the {outputs} outputs of {source}"
        )
    return classes


def default_classes(count: int) -> tuple[str, ...]:
    """ImageNet's names for a thousand classes; else "class 0" and so on."""
    names = imagenet.class_names()
    return names if count == len(names) else tuple(f"class {index}" for index in range(count))


def _projects_with(variant: str) -> list[Project]:
    get_variant(variant)
    candidates = [name for name, project in PROJECTS.items() if variant in project.variants]
    if not candidates:
        known = [name for project in PROJECTS.values() for name in project.variants]
        raise ConfigError(
            f"no other project's {variant} is known; those that can be imported are "
            f"{', '.join(known)}"
        )
    return candidates


def _names_in_common(arrays: Mapping[str, np.ndarray], project: Project, variant: str) -> int:
    return sum(rule.theirs in arrays for rule in PROJECTS[project].rules(get_config(variant)))


def _trained_size(
    rules: Sequence[Rule],
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, Any],
    size: tuple[int, int],
) -> tuple[int, int] | None:
    """The size that relative tables which do not fit are of; None where that is not what is amiss.

    Every side of a grid is the image's by the same stride, so the largest grid tells it.
    """
    if {rule.theirs for rule in rules} != arrays.keys():
        return None
    came, fitting = [0, 0], [0, 0]
    for rule in rules:
        for axis, table in enumerate(RELATIVE_TABLES):
            if rule.ours[0].endswith(table):
                came[axis] = max(came[axis], len(arrays[rule.theirs]))
                fitting[axis] = max(fitting[axis], expected[rule.ours[0]].shape[0])
    if came == fitting:
        return None
    height, width = (
        math.ceil(side / ((fits + 1) // 2)) * ((rows + 1) // 2)
        for side, fits, rows in zip(size, fitting, came, strict=True)
    )
    return height, width


def _what_it_is(arrays: Mapping[str, np.ndarray], expected: str) -> str:
    """Another known model that has exactly these names, in words; nothing where there is none."""
    for project, described in PROJECTS.items():
        for variant in described.variants:
            names = {rule.theirs for rule in described.rules(get_config(variant))}
            if variant != expected and names == arrays.keys():
                return f", but has the names of {variant} of {project}"
    return ""
