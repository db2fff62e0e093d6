"""Pretrained directories: everything that inference needs from a trained model, and nothing else.

``config.json`` (the architecture), ``model.safetensors`` (parameters and batch statistics),
``preprocessing.json`` (how images become model input), ``classes.json`` (the class names),
``README.md`` (the model card).
"""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save

from bottleneck_transformer_flax.checkpoints.pretrained_files import (
    CARD,
    CLASSES,
    CONFIG,
    FILES,
    FORMAT,
    PREPROCESSING,
    WEIGHTS,
)
from bottleneck_transformer_flax.checkpoints.weights_errors import reading_weights
from bottleneck_transformer_flax.errors import BoTNetError, CheckpointError, first_of, reraise
from bottleneck_transformer_flax.files import atomic_directory, is_utf8
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.surgery import Variables, resize_relative_positions
from bottleneck_transformer_flax.own_output import has_our_format
from bottleneck_transformer_flax.preprocessing import Preprocessing, checked_image_size


class Pretrained(NamedTuple):
    """A model ready for inference.

    Attributes:
        model: network.
        variables: parameters and batch statistics.
        preprocessing: how images become model input.
        classes: name of each output.
    """

    model: BoTNet
    variables: Variables
    preprocessing: Preprocessing
    classes: tuple[str, ...]


def save_pretrained(
    directory: str | Path,
    model: BoTNet,
    variables: Variables,
    preprocessing: Preprocessing,
    classes: tuple[str, ...],
    *,
    card: str | None = None,
) -> Path:
    """Write a pretrained directory, whole or not at all, replacing one that is already there.

    Args:
        directory: new or empty folder, or a pretrained directory to replace.
        model: network.
        variables: parameters and batch statistics.
        preprocessing: how images become model input.
        classes: name of each output.
        card: text of ``README.md``, in Markdown.

    Returns:
        The directory.

    Raises:
        CheckpointError: when something else is in the way, the number of classes is not the
            model's, or variables do not fit the model; the message lists every misfit.
    """
    directory = Path(directory).resolve()
    if len(classes) != model.config.num_classes:
        raise CheckpointError(
            f"there are {len(classes)} class names for {model.config.num_classes} outputs"
        )
    if not_text := [name for name in classes if not is_utf8(name)]:
        raise CheckpointError(f"the class names {not_text} are not UTF-8 text")
    check_replaceable(directory)
    arrays = {
        ".".join(path): np.ascontiguousarray(leaf)
        for path, leaf in flatten_dict(jax.device_get(variables)).items()
    }
    _check_fit(arrays, model, preprocessing.size, "the variables do not fit the model")
    with atomic_directory(directory) as beside:
        _write_json(beside / CONFIG, {"format": FORMAT, **model.config.to_json()})
        (beside / WEIGHTS).write_bytes(save(arrays, metadata={"format": FORMAT}))
        _write_json(beside / PREPROCESSING, preprocessing.to_json())
        _write_json(beside / CLASSES, list(classes))
        if card is not None:
            (beside / CARD).write_text(card, encoding="utf-8", errors="backslashreplace")
    return directory


def read_pretrained(directory: Path) -> Pretrained:
    """Read the pretrained directory that ``save_pretrained`` wrote.

    Raises:
        CheckpointError: when the directory is damaged or inconsistent.
    """
    try:
        return _read(directory)
    except BoTNetError as error:
        raise CheckpointError(f"{directory}: {error}") from error


def at_size(pretrained: Pretrained, image_size: tuple[int, int] | None) -> Pretrained:
    """Resize a model to another (height, width), and log the change; with None, it keeps its own.

    Raises:
        ConfigError: when ``image_size`` is not (height, width), or too small for the model.
    """
    if image_size is None or checked_image_size(image_size) == pretrained.preprocessing.size:
        return pretrained
    model, variables = resize_relative_positions(pretrained.model, pretrained.variables, image_size)
    preprocessing = pretrained.preprocessing.replace(size=image_size)
    return Pretrained(model, variables, preprocessing, pretrained.classes)


def check_replaceable(directory: Path) -> None:
    """Check that a pretrained directory can be written here without destroying anything else.

    Raises:
        CheckpointError: when something else is in the way.
    """
    if directory.is_dir():
        if directory == Path.cwd():
            raise CheckpointError(f"{directory} is the current folder; name a new one")
        names = sorted(entry.name for entry in directory.iterdir())
        others = [name for name in names if name not in FILES]
        if not others and not has_our_format(directory / CONFIG):
            others = names
        if others:
            raise CheckpointError(
                f"{directory} holds other files ({first_of(others)}); name a new or empty folder"
            )
    elif directory.exists():
        raise CheckpointError(f"{directory} is a file; name a new or empty folder")


def _read(directory: Path) -> Pretrained:
    values = _read_json(directory / CONFIG, dict)
    if (found := values.pop("format", None)) != FORMAT:
        raise CheckpointError(f"{CONFIG} has format {found!r}; this version reads {FORMAT!r}")
    model = BoTNet(config=BoTNetConfig.from_json(values))
    preprocessing = Preprocessing.from_json(_read_json(directory / PREPROCESSING, dict))
    classes = tuple(map(str, _read_json(directory / CLASSES, list)))
    if len(classes) != model.config.num_classes:
        raise CheckpointError(
            f"{CLASSES} names {len(classes)} classes; the model has {model.config.num_classes} "
            "outputs"
        )
    with reading_weights(directory / WEIGHTS, "safetensors", name=WEIGHTS):
        arrays = load_file(directory / WEIGHTS)
    _check_fit(arrays, model, preprocessing.size, f"{WEIGHTS} does not fit the model in {CONFIG}")
    # Unlike jnp.asarray, this compiles no program for each shape.
    variables: Variables = unflatten_dict(jax.device_put(arrays), sep=".")
    return Pretrained(model, variables, preprocessing, classes)


def _check_fit(
    arrays: dict[str, Any], model: BoTNet, image_size: tuple[int, int], misfit: str
) -> None:
    """Check names, shapes, dtypes and finiteness of a model's arrays."""
    expected = flatten_dict(abstract_variables(model, image_size), sep=".")
    problems = [f"missing: {name}" for name in expected if name not in arrays]
    problems += [f"not in the model: {name}" for name in arrays if name not in expected]
    for name in arrays.keys() & expected.keys():
        array, leaf = arrays[name], expected[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            problems.append(
                f"{name} is {array.dtype} {array.shape} instead of {leaf.dtype} {leaf.shape}"
            )
        elif not np.isfinite(array).all():
            problems.append(f"{name} has values that are not finite")
    if problems:
        count = f"{len(problems)} difference{'s' * (len(problems) > 1)}"
        raise CheckpointError(f"{misfit}, {count}: {first_of(sorted(problems))}")


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path, kind: type) -> Any:
    with _unreadable(path.name):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, kind):
        raise CheckpointError(
            f"{path.name} holds a {type(values).__name__}; expected a {kind.__name__}"
        )
    return values


def _unreadable(name: str) -> AbstractContextManager[None]:
    return reraise(
        (OSError, ValueError),
        CheckpointError,
        f"{name} cannot be read",
        remedy="copy or download the folder again",
    )
