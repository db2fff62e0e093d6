"""Functions of a sharded batch on a mesh with Explicit axes, where shardings are part of types.

There JAX refuses an operation whose result it could shard in several ways, such as merging the
batch with the positions.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Function = TypeVar("Function", bound=Callable[..., Any])


def sharded_by_batch(function: Function) -> Function:
    """``function``, whose results are sharded along their first axis like its first argument.

    Within it the mesh's Explicit axes are Auto, so XLA chooses the shardings. Without Explicit axes
    it is ``function`` unchanged.
    """
    return _with_auto_axes(function, lambda spec: PartitionSpec(spec[0]))


def replicated(function: Function) -> Function:
    """As ``sharded_by_batch``, but with replicated results."""
    return _with_auto_axes(function, lambda _: PartitionSpec())


def _with_auto_axes(
    function: Function, result_spec: Callable[[PartitionSpec], PartitionSpec]
) -> Function:
    @wraps(function)
    def wrapped(x: Any, *arguments: Any, **options: Any) -> Any:
        sharding = jax.typeof(x).sharding
        if not sharding.mesh.explicit_axes:
            return function(x, *arguments, **options)
        auto = dict.fromkeys(sharding.mesh.explicit_axes, AxisType.Auto)
        with jax.sharding.use_abstract_mesh(sharding.mesh.update_axis_types(auto)):
            arrays = jax.tree.map(_without_sharding, (x, *arguments))
            result = function(*arrays, **options)
        return jax.sharding.reshard(
            result, NamedSharding(sharding.mesh, result_spec(sharding.spec))
        )

    return wrapped  # type: ignore[return-value]


def _without_sharding(value: Any) -> Any:
    is_array = isinstance(value, jax.Array)
    return jax.sharding.reshard(value, PartitionSpec()) if is_array else value
