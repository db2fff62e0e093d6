"""Pretrained directories: all that inference needs of a trained model, and nothing else.

``config.json`` (the model), ``model.safetensors`` (its variables), ``preprocessing.json`` (how
images become its input), ``classes.json`` (the names of its outputs), ``README.md`` (its card).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from bottleneck_transformer_flax.checkpoints.hub import (
    at_commit,
    download_repository,
    means_repository,
)
from bottleneck_transformer_flax.checkpoints.kept_shapes import expected_variables
from bottleneck_transformer_flax.checkpoints.locations import (
    CARD,
    CLASSES,
    CONFIG,
    FILES,
    FORMAT,
    PREPROCESSING,
    WEIGHTS,
    find_pretrained,
    is_ours,
)
from bottleneck_transformer_flax.data.sources.folder import is_text
from bottleneck_transformer_flax.errors import BoTNetError, CheckpointError
from bottleneck_transformer_flax.files import atomic_directory
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.config import BoTNetConfig
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.surgery import Variables, resize_relative_positions
from bottleneck_transformer_flax.preprocessing import Preprocessing, checked_image_size

_MOST_LISTED = 8


class Pretrained(NamedTuple):
    """A model ready for inference.

    Attributes:
        model: the network.
        variables: its parameters and batch statistics.
        preprocessing: how images become its input.
        classes: the name of each output.
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
    """Write a pretrained directory, whole or not at all; one that is there is replaced.

    Args:
        directory: where; a folder of anything else than such a directory is left alone.
        model: the network.
        variables: its parameters and batch statistics.
        preprocessing: how images become its input.
        classes: the name of each output.
        card: text of ``README.md``, in Markdown.

    Returns:
        The directory.

    Raises:
        CheckpointError: when there is another folder or file in the way, the number of classes
            is not the model's, or the variables don't fit the model; all that don't are listed.
    """
    directory = Path(directory).resolve()
    if len(classes) != model.config.num_classes:
        raise CheckpointError(
            f"there are {len(classes)} class names for {model.config.num_classes} outputs"
        )
    check_replaceable(directory)
    arrays = {
        ".".join(path): np.ascontiguousarray(leaf)
        for path, leaf in flatten_dict(jax.device_get(variables)).items()
    }
    if problems := _differences(arrays, expected_variables(model, preprocessing.size)):
        raise CheckpointError(
            f"the variables do not fit the model, {len(problems)} differences: "
            + "; ".join(problems)
        )
    if not_text := [name for name in classes if not is_text(name)]:
        raise CheckpointError(f"the class names {not_text} are not UTF-8 text")
    with atomic_directory(directory) as beside:
        _write_json(beside / CONFIG, {"format": FORMAT, **model.config.to_json()})
        (beside / WEIGHTS).write_bytes(save(arrays, metadata={"format": FORMAT}))
        _write_json(beside / PREPROCESSING, preprocessing.to_json())
        _write_json(beside / CLASSES, list(classes))
        if card is not None:
            (beside / CARD).write_text(card, encoding="utf-8", errors="backslashreplace")
    return directory


def load_pretrained(
    source: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    execution: Execution = Execution(),
) -> Pretrained:
    """Load a pretrained directory, or a model that ships with the package.

    Args:
        source: a directory, a run's directory (its ``pretrained/`` is taken), a repository of the
            Hugging Face hub ("owner/name" or "owner/name@revision"), or "botnet_tiny".
        image_size: (height, width) to run the model at; by default the size it was saved at.
            Every relative table is interpolated linearly over its offset; what became of which
            is logged (see ``resize_relative_positions``).
        execution: how the model's function is computed.

    Raises:
        CheckpointError: when the source is missing, damaged, or of another model; every name and
            shape that does not fit is listed.
        ConfigError: when ``image_size`` is no (height, width), or too small for the model.
    """
    directory = _find(source)
    values = _read_json(directory / CONFIG, dict)
    written_as = values.pop("format", None)
    if written_as != FORMAT:
        raise CheckpointError(
            f"{directory / CONFIG} has format {written_as!r}; this version reads {FORMAT!r}"
        )
    try:
        model = BoTNet(config=BoTNetConfig.from_json(values), execution=execution)
        preprocessing = Preprocessing.from_json(_read_json(directory / PREPROCESSING, dict))
        expected = expected_variables(model, preprocessing.size)
    except (BoTNetError, TypeError) as error:
        raise CheckpointError(f"{directory}: {error}") from error
    classes = tuple(map(str, _read_json(directory / CLASSES, list)))
    if len(classes) != model.config.num_classes:
        raise CheckpointError(
            f"{directory / CLASSES} names {len(classes)} classes; "
            f"the model has {model.config.num_classes} outputs"
        )
    arrays = _read_arrays(directory / WEIGHTS, expected)
    variables: Variables = unflatten_dict(arrays, sep=".")
    if image_size is not None and checked_image_size(image_size) != preprocessing.size:
        model, variables = resize_relative_positions(model, variables, image_size)
        preprocessing = preprocessing.replace(size=image_size)
    return Pretrained(model, variables, preprocessing, classes)


def _find(source: str | Path) -> Path:
    """Where the files are; those of a repository are in the hub's cache then."""
    name = str(source)
    if isinstance(source, Path) or not means_repository(name):
        return find_pretrained(source)
    folder = download_repository(name, [CONFIG], required=[CONFIG])
    if not is_ours(folder / CONFIG):
        raise CheckpointError(
            f"{name} is a repository of another project; bring it into a folder with "
            f"`botnet import {name} --out FOLDER`, and load that"
        )
    needed = (CONFIG, WEIGHTS, PREPROCESSING, CLASSES)
    return download_repository(at_commit(name, folder), FILES, required=needed)


def check_replaceable(directory: Path) -> None:
    """See that a pretrained directory can be written here.

    Raises:
        CheckpointError: when something else is in the way.
    """
    if directory.is_dir():
        if directory == Path.cwd():
            raise CheckpointError(f"{directory} is the current folder; name a new one")
        names = sorted(entry.name for entry in directory.iterdir())
        others = [name for name in names if name not in FILES]
        if not others and not is_ours(directory / CONFIG):
            others = names
        if others:
            raise CheckpointError(
                f"{directory} holds other files ({', '.join(others[:_MOST_LISTED])}); name a new "
                "or empty folder"
            )
    elif directory.exists():
        raise CheckpointError(f"{directory} is a file; name a new or empty folder")


def _differences(arrays: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What of some arrays does not fit a model, in words."""
    problems = [f"missing: {name}" for name in expected if name not in arrays]
    problems += [f"not in the model: {name}" for name in arrays if name not in expected]
    for name in arrays.keys() & expected.keys():
        came, fits = arrays[name], expected[name]
        if came.shape != fits.shape or came.dtype != fits.dtype:
            problems.append(
                f"{name} is {came.dtype} {came.shape}, expected {fits.dtype} {fits.shape}"
            )
        elif not np.isfinite(came).all():
            problems.append(f"{name} has values that are not finite")
    return sorted(problems)


def _read_arrays(path: Path, expected: dict[str, Any]) -> dict[str, jax.Array]:
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); copy or download it anew"
        ) from error
    if problems := _differences(arrays, expected):
        raise CheckpointError(
            f"{path} does not fit the model in its {CONFIG}, {len(problems)} "
            f"difference{'s' * (len(problems) > 1)}: " + "; ".join(problems)
        )
    # Not jnp.asarray, which compiles a program for every shape.
    put: dict[str, jax.Array] = jax.device_put(arrays)
    return put


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path, kind: type) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); copy or download the folder anew"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is no JSON ({error}); copy or download the folder anew"
        ) from error
    if not isinstance(values, kind):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; expected a {kind.__name__}")
    return values
