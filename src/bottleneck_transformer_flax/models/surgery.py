"""(model, variables) → (model, variables): another head or resolution, folded norms."""

import logging
from collections.abc import Iterable, Mapping
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
Arrays = dict[Path, Any]
_log = logging.getLogger(__name__)

RELATIVE_TABLES = ("relative_height", "relative_width")
_NORMALISED = {"norm": ("convolution",), "attention_norm": ("attention", "value")}
"""For each batch norm the weights beside it whose result it normalises."""
_LEARNED, _GATHERED = ("scale", "bias"), ("mean", "var")


def resize_relative_positions(
    model: BoTNet, variables: Variables, image_size: tuple[int, int]
) -> tuple[BoTNet, Variables]:
    """The same network for images of another (height, width).

    Every relative table is interpolated linearly over its offset (see ``resize_table``); all
    else, and every table that fits already, is the very same array. A model without attention
    comes back as it was. Which tables went from what length to what is logged, as a warning,
    because the model is another afterwards.

    Raises:
        ConfigError: when this is no (height, width), images of it are too small for the model, or
            there are no parameters among the variables.
    """
    before = flatten_dict(_parameters(variables))
    params = resized_tables(model, _parameters(variables), image_size)
    moved: dict[tuple[str, int, int], list[str]] = {}
    for path, table in flatten_dict(params).items():
        if table is not before[path]:
            lengths = [(len(each) + 1) // 2 for each in (before[path], table)]
            moved.setdefault((path[-1], *lengths), []).append("/".join(path[:2]))
    for (table_name, old, new), blocks in moved.items():
        _log.warning(
            "%s interpolated linearly from %d to %d positions in %s",
            table_name.replace("_", " "),
            old,
            new,
            ", ".join(blocks),
        )
    return model, dict(variables) | {"params": params}


def resized_tables(
    model: BoTNet, params: Mapping[str, Any], image_size: tuple[int, int]
) -> dict[str, Any]:
    """Parameters for images of another (height, width); see ``resize_relative_positions``.

    Raises:
        ConfigError: as there.
    """
    needed = flatten_dict(abstract_variables(model, image_size)["params"])
    resized = flatten_dict(dict(params))
    for path, table in resized.items():
        if path[-1] in RELATIVE_TABLES:
            if path not in needed:
                raise ConfigError(f"the variables have {'.'.join(path)}, which the model has not")
            resized[path] = resize_table(table, (len(needed[path]) + 1) // 2)
    tree: dict[str, Any] = unflatten_dict(resized)
    return tree


def replace_head(
    model: BoTNet, variables: Variables, *, num_classes: int, rng: jax.Array
) -> tuple[BoTNet, Variables]:
    """The same network with a new classifier, drawn at random, for other classes.

    Args:
        model: the network.
        variables: its variables; all but the head's are the very same arrays in the result.
        num_classes: outputs of the new head.
        rng: key from which the head is drawn.

    Raises:
        ConfigError: when ``num_classes`` is below 1, or there are no parameters among the
            variables.
    """
    model = model.clone(config=model.config.replace(num_classes=num_classes))
    params = dict(_parameters(variables))
    if "head" not in params:
        raise ConfigError(f"the parameters have no head to replace, but {', '.join(params)}")
    features = params["head"]["kernel"].shape[0]
    head = classifier_head(num_classes).init(rng, jnp.zeros((1, features)))
    return model, dict(variables) | {"params": params | {"head": head["params"]}}


def fold_batch_norm(model: BoTNet, variables: Variables) -> tuple[BoTNet, Variables]:
    """The same network for inference, each batch norm taken in by the weights before it.

    ``scale · (W x − mean) / √(var + ε) + bias`` is ``W' x + b`` with ``W' = W · f``,
    ``b = bias − mean · f`` and ``f = scale / √(var + ε)``, computed in float64. The norm after
    attention goes into the values: the weights of each query sum to 1, and so do those of the
    average pool between. What is folded already comes back as it was; the weights that no norm
    follows are the very same arrays.

    Raises:
        ConfigError: when the variables have no parameters or no batch statistics, or not those of
            every batch norm; all that are missing are named.
    """
    params = flatten_dict(_parameters(variables))
    if model.config.folded_batch_norm:
        return model, variables
    if "batch_stats" not in variables:
        raise ConfigError(
            "the variables have no batch_stats, which folding takes in; expected all that "
            "model.init or load_pretrained gave"
        )
    statistics = flatten_dict(variables["batch_stats"])
    norms = dict.fromkeys(
        path[:-1] for path in (*params, *statistics) if len(path) > 1 and path[-2] in _NORMALISED
    )
    norms |= {
        (*path[: -1 - len(weights)], norm): None
        for path in params
        for norm, weights in _NORMALISED.items()
        if path[-1] == "kernel" and path[-1 - len(weights) : -1] == weights
    }
    _check_norms(norms, params, statistics)
    for norm in norms:
        scale, bias = (np.asarray(params.pop((*norm, name)), np.float64) for name in _LEARNED)
        mean, var = (np.asarray(statistics[*norm, name], np.float64) for name in _GATHERED)
        weights = _before(norm)
        factor = scale / np.sqrt(var + model.config.bn_epsilon)
        kernel = np.asarray(params[*weights, "kernel"])
        # Of a convolution the features, of values (heads, size).
        outputs = kernel.shape[-1:] if norm[-1] == "norm" else kernel.shape[1:]
        folded = {
            "kernel": kernel * factor.reshape(outputs),
            "bias": (bias - mean * factor).reshape(outputs),
        }
        for name, array in folded.items():
            # Rounded by NumPy: JAX would compile a program for every shape.
            params[*weights, name] = jax.device_put(array.astype(np.float32))
    others = {name: tree for name, tree in variables.items() if name != "batch_stats"}
    model = model.clone(config=model.config.replace(folded_batch_norm=True))
    return model, others | {"params": unflatten_dict(params)}


def _before(norm: Path) -> Path:
    """The weights whose result a batch norm normalises."""
    return (*norm[:-1], *_NORMALISED[norm[-1]])


def _check_norms(norms: Iterable[Path], params: Arrays, statistics: Arrays) -> None:
    missing = []
    for norm in norms:
        needed = [(*norm, name) for name in _LEARNED] + [(*_before(norm), "kernel")]
        missing += [("params", *path) for path in needed if path not in params]
        needed = [(*norm, name) for name in _GATHERED]
        missing += [("batch_stats", *path) for path in needed if path not in statistics]
    if missing:
        names = ", ".join(map(".".join, missing))
        raise ConfigError(f"the variables do not fit a model with batch norms; missing: {names}")


def _parameters(variables: Variables) -> dict[str, Any]:
    if not isinstance(variables, Mapping) or "params" not in variables:
        came = ", ".join(sorted(variables)) if isinstance(variables, Mapping) else ""
        raise ConfigError(
            f"the variables have no params, but {came or 'nothing'}; "
            "expected all that model.init or load_pretrained gave"
        )
    params: dict[str, Any] = variables["params"]
    return params
