"""Frozen parts take no part in training, to the bit; all others do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bottleneck_transformer_flax.models.execution import Execution
from reference.small_models import SMALL_MODELS, grid_stride, small_variables
from reference.variables import random_images

NAME = "botnet_t3"
SIZE = (2 * grid_stride(NAME), 3 * grid_stride(NAME))
PARTS = ("stem", "c2", "c3", "c4", "c5", "head")


def step(**changes):
    """(loss, gradients, batch statistics) of a training step, by path."""
    model = SMALL_MODELS[NAME].clone(execution=Execution(**changes))
    variables = small_variables(NAME, *SIZE)

    def loss(params, images):
        logits, state = model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(logits**2), state["batch_stats"]

    (value, stats), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables["params"], random_images(4, *SIZE, 3)
    )
    return float(value), flatten_dict(gradients), flatten_dict(stats)


def before():
    return flatten_dict(small_variables(NAME, *SIZE)["batch_stats"])


@pytest.mark.parametrize("through", ["stem", "c3", "c5"])
def test_frozen_through(through):
    _, gradients, stats = step(frozen_through=through)
    frozen = PARTS[: PARTS.index(through) + 1]
    assert stats.keys() == before().keys()
    for path, gradient in gradients.items():
        assert np.any(gradient) == (path[0] not in frozen), path
    for path, values in stats.items():
        same = np.array_equal(values, before()[path])
        assert same == (path[0] in frozen), path


def test_nothing_frozen():
    _, gradients, stats = step()
    assert all(np.any(gradient) for gradient in gradients.values())
    assert not any(np.array_equal(values, before()[path]) for path, values in stats.items())


def test_frozen_statistics_normalise_and_stay():
    loss, gradients, stats = step(frozen_batch_stats=True)
    for path, values in stats.items():
        np.testing.assert_array_equal(values, before()[path])
    assert all(np.any(gradient) for gradient in gradients.values())
    logits = SMALL_MODELS[NAME].apply(small_variables(NAME, *SIZE), random_images(4, *SIZE, 3))
    np.testing.assert_allclose(loss, float(jnp.sum(logits**2)), rtol=1e-5)
    assert abs(step()[0] - loss) > 0.01 * loss


def test_inference_does_not_see_it():
    model = SMALL_MODELS[NAME]
    variables, images = small_variables(NAME, *SIZE), random_images(2, *SIZE, 3)
    frozen = model.clone(execution=Execution(frozen_through="c4", frozen_batch_stats=True))
    np.testing.assert_array_equal(
        jax.jit(frozen.apply)(variables, images), jax.jit(model.apply)(variables, images)
    )
