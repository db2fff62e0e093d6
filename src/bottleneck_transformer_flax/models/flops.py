"""What a model costs: parameters and multiply-adds, counted on the model itself."""

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
    """The model's variables as shapes and dtypes, without computing any.

    Raises:
        ConfigError: when this is no (height, width), or images of it are too small for the model.
    """
    image_size = checked_image_size(image_size)
    images = jax.ShapeDtypeStruct((1, *image_size, model.config.image_channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def count_parameters(variables: dict[str, PyTree]) -> int:
    """Trainable parameters; batch statistics are not among them."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def count_multiply_adds(model: BoTNet, image_size: tuple[int, int]) -> int:
    """Multiply-adds of every convolution and matrix product for one image of (height, width).

    Attention and its relative terms are matrix products and are counted; what is done once for
    each value (norms, activations, softmax, sums) is not. They are counted in the plain algorithms,
    which compute every product once.
    """
    plain = Execution(attention_backend="reference", convolution_algorithm="plain")
    model = model.clone(execution=plain)
    variables = abstract_variables(model, image_size)
    images = jax.ShapeDtypeStruct((1, *image_size, model.config.image_channels), jnp.float32)
    closed = jax.make_jaxpr(model.apply)(variables, images)
    return sum(_multiply_adds(equation) for equation in equations(closed.jaxpr))


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr and of those within them."""
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
