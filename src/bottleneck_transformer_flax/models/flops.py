"""Parameters and multiply-adds of a model, counted on its own trace."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.preprocessing import checked_image_size

PyTree = Any


def abstract_variables(model: BoTNet, image_size: tuple[int, int]) -> dict[str, PyTree]:
    """Shapes and dtypes of the model's variables, without computing any.

    Raises:
        ConfigError: when ``image_size`` is not a (height, width) that the model accepts.
    """
    image_size = checked_image_size(image_size)
    images = jax.ShapeDtypeStruct((1, *image_size, model.config.image_channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def count_parameters(variables: dict[str, PyTree]) -> int:
    """Number of trainable parameters, without batch statistics."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def count_multiply_adds(model: BoTNet, image_size: tuple[int, int]) -> int:
    """Multiply-adds of all convolutions and matrix products for one image of (height, width).

    Counts attention with its relative terms, but no elementwise work such as norms, activations
    and the softmax. The count is that of the plain algorithms, whatever the model's execution.
    """
    plain = Execution(attention_backend="reference", convolution_algorithm="plain")
    model = model.clone(execution=plain)
    variables = abstract_variables(model, image_size)
    images = jax.ShapeDtypeStruct((1, *image_size, model.config.image_channels), jnp.float32)
    closed = jax.make_jaxpr(model.apply)(variables, images)
    return sum(_multiply_adds(equation) for equation in equations(closed.jaxpr))


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield the equations of a jaxpr and of all jaxprs nested in it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def _multiply_adds(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return _size(equation.outvars[0].aval) * math.prod(left[axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        out_channels = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        return _size(equation.outvars[0].aval) * (_size(kernel) // out_channels)
    return 0


def _size(array: Any) -> int:
    return math.prod(array.shape)
