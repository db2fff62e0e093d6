"""(model, variables) → (model, variables): another head or resolution, or folded batch norms."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bottleneck_transformer_flax.errors import ConfigError
from bottleneck_transformer_flax.layers.relative_position import resize_table
from bottleneck_transformer_flax.models.botnet import BoTNet, classifier_head
from bottleneck_transformer_flax.models.flops import abstract_variables

Variables = dict[str, Any]
Path = tuple[str, ...]
_log = logging.getLogger(__name__)

RELATIVE_TABLES = ("relative_height", "relative_width")
_NORMALISED_WEIGHTS = {"norm": ("convolution",), "attention_norm": ("attention", "value")}
"""Names of the batch norms, with the path of the weights whose output each normalises."""
_NORM_ARRAYS = {"scale": "params", "bias": "params", "mean": "batch_stats", "var": "batch_stats"}
"""Arrays of a batch norm, with the collection that holds each."""


def resize_relative_positions(
    model: BoTNet, variables: Variables, image_size: tuple[int, int]
) -> tuple[BoTNet, Variables]:
    """Adapt a network to images of another (height, width).

    Interpolates every relative table linearly over its offset (see ``resize_table``). All other
    arrays, and tables that already fit, are returned as they are. Warns which tables changed, since
    the network's outputs change with them.

    Raises:
        ConfigError: when ``image_size`` is not a (height, width) that the model accepts, or the
            variables hold no parameters.
    """
    original = flatten_dict(_parameters(variables))
    params = resized_tables(model, _parameters(variables), image_size)
    blocks: dict[tuple[str, int, int], list[str]] = {}
    for path, table in flatten_dict(params).items():
        if table is not original[path]:
            lengths = [(len(each) + 1) // 2 for each in (original[path], table)]
            blocks.setdefault((path[-1], *lengths), []).append("/".join(path[:2]))
    for (table_name, old, new), names in blocks.items():
        _log.warning(
            "%s interpolated linearly from %d to %d positions in %s",
            table_name.replace("_", " "),
            old,
            new,
            ", ".join(names),
        )
    return model, dict(variables) | {"params": params}


def resized_tables(
    model: BoTNet, params: Mapping[str, Any], image_size: tuple[int, int]
) -> dict[str, Any]:
    """Parameters for images of another (height, width), as in ``resize_relative_positions``."""
    needed = flatten_dict(abstract_variables(model, image_size)["params"])
    resized = flatten_dict(dict(params))
    for path, table in resized.items():
        if path[-1] in RELATIVE_TABLES:
            if path not in needed:
                raise ConfigError(
                    f"the variables hold {'.'.join(path)}, but the model has no attention there"
                )
            resized[path] = resize_table(table, (len(needed[path]) + 1) // 2)
    tree: dict[str, Any] = unflatten_dict(resized)
    return tree


def replace_head(
    model: BoTNet, variables: Variables, *, num_classes: int, rng: jax.Array
) -> tuple[BoTNet, Variables]:
    """Give a network a new, randomly initialised classifier for other classes.

    A temperature in the network's ``Preprocessing`` was fitted to the old classifier; go on with
    ``preprocessing.replace(temperature=1.0)``.

    Args:
        model: the network.
        variables: its variables; all arrays except the head's are returned as they are.
        num_classes: outputs of the new head.
        rng: key for the initial weights.

    Raises:
        ConfigError: when ``num_classes`` is below 1, or the variables hold no head.
    """
    model = model.clone(config=model.config.replace(num_classes=num_classes))
    params = dict(_parameters(variables))
    if "head" not in params:
        raise ConfigError(
            f"the parameters have no head to replace; they hold {', '.join(params) or 'nothing'}"
        )
    features = params["head"]["kernel"].shape[0]
    head = classifier_head(num_classes).init(rng, jnp.zeros((1, features)))
    return model, dict(variables) | {"params": params | {"head": head["params"]}}


def fold_batch_norm(model: BoTNet, variables: Variables) -> tuple[BoTNet, Variables]:
    """Fold each batch norm into the weights before it, for faster inference.

    ``scale · (W x − mean) / √(var + ε) + bias`` becomes ``W' x + b`` with ``W' = W · f``,
    ``b = bias − mean · f`` and ``f = scale / √(var + ε)``, computed in float64. The norm after
    attention goes into the values, because the weights of each query sum to 1, and so do those of
    the average pool between. Weights that no norm follows are returned as they are, and so is a
    model whose norms are folded already.

    Raises:
        ConfigError: when the variables lack the parameters or statistics of a batch norm; the
            message names all that are missing.
    """
    params = flatten_dict(_parameters(variables))
    if model.config.folded_batch_norm:
        return model, variables
    if "batch_stats" not in variables:
        raise ConfigError(
            "the variables have no batch_stats, which folding needs; pass everything that "
            "model.init or load_pretrained returned"
        )
    norms = dict(_norms(params))
    for norm, arrays in _norm_arrays(norms, variables).items():
        scale, bias, mean, var = arrays
        weights = norms[norm]
        factor = scale / np.sqrt(var + model.config.bn_epsilon)
        kernel = np.asarray(params[*weights, "kernel"])
        # The outputs are a convolution's features, or the values' (heads, size).
        outputs = kernel.shape[-1:] if norm[-1] == "norm" else kernel.shape[1:]
        folded = {
            "kernel": kernel * factor.reshape(outputs),
            "bias": (bias - mean * factor).reshape(outputs),
        }
        for name, array in folded.items():
            # JAX would compile one program for each shape to round these.
            params[*weights, name] = jax.device_put(array.astype(np.float32))
    kept = {path: array for path, array in params.items() if path[:-1] not in norms}
    others = {name: tree for name, tree in variables.items() if name != "batch_stats"}
    model = model.clone(config=model.config.replace(folded_batch_norm=True))
    return model, others | {"params": unflatten_dict(kept)}


def _norms(params: Mapping[Path, Any]) -> Iterator[tuple[Path, Path]]:
    """Path of each batch norm, and of the weights whose output it normalises."""
    for path in params:
        for norm, weights in _NORMALISED_WEIGHTS.items():
            part, end = path[: -1 - len(weights)], path[-1 - len(weights) :]
            if end == (*weights, "kernel"):
                yield (*part, norm), (*part, *weights)


def _norm_arrays(norms: Iterable[Path], variables: Variables) -> dict[Path, list[np.ndarray]]:
    """Scale, bias, mean and variance of each batch norm."""
    found = flatten_dict(dict(variables))
    paths = {
        norm: [(collection, *norm, name) for name, collection in _NORM_ARRAYS.items()]
        for norm in norms
    }
    missing = [path for each in paths.values() for path in each if path not in found]
    if missing:
        names = ", ".join(map(".".join, missing))
        raise ConfigError(f"the variables do not fit a model with batch norms; missing: {names}")
    return {
        norm: [np.asarray(found[path], np.float64) for path in each] for norm, each in paths.items()
    }


def _parameters(variables: Variables) -> dict[str, Any]:
    if not isinstance(variables, Mapping) or "params" not in variables:
        given = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise ConfigError(
            f"the variables have no params (given: {given}); pass everything that model.init or "
            "load_pretrained returned"
        )
    params: dict[str, Any] = variables["params"]
    return params
