"""The step on a real small BoTNet: a batch in parts, in bfloat16, and at other image sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from bottleneck_transformer_flax import resize_relative_positions
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.training.config import OptimizerOptions
from training.tiny import CROPPED, SIZE, SMALL, batch_of, stepper

pytestmark = pytest.mark.slow

MOMENTUM = OptimizerOptions(optimizer="sgd", momentum=0.9, weight_decay=1e-4)


def network(*, rate=0.1, **changes):
    """A step of a model with some changes, its first state made anew, and the model."""
    model = BoTNet(config=SMALL.replace(**changes))
    return *stepper(model, MOMENTUM, rate, label_smoothing=0.1, ema_decay=0.9), model


def operands(jaxpr, primitives):
    """The dtypes of the operands of every such operation in a program and those it holds."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in primitives:
            yield tuple(variable.aval.dtype.name for variable in equation.invars)
        for inner in jaxprs_in_params(equation.params):
            yield from operands(inner, primitives)


def test_bfloat16_is_of_the_computation_alone():
    step, start, _ = network(dtype=jnp.bfloat16)
    program = step.trace(start(), batch_of(6)).jaxpr.jaxpr
    convolutions = list(operands(program, {"conv_general_dilated"}))
    assert convolutions
    assert set(convolutions) == {("bfloat16", "bfloat16")}
    products = list(operands(program, {"dot_general"}))
    # The classifier and its two gradients; what comes back from the softmax, in float32, meets
    # queries and keys in bfloat16.
    assert products.count(("float32", "float32")) == 3
    assert products.count(("bfloat16", "bfloat16")) > 5 * products.count(("float32", "bfloat16"))
    state, metrics = step(start(), batch_of(6))
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype.name for leaf in (*floats, *metrics[:1], *metrics[3:])} == {"float32"}


def test_in_bfloat16_it_learns_what_it_learns_in_float32():
    losses = {}
    for dtype in ("float32", "bfloat16"):
        step, start, _ = network(dtype=dtype, rate=0.05)
        state, losses[dtype] = start(), []
        for number in range(12):
            state, metrics = step(state, batch_of(24, seed=number))
            losses[dtype].append(float(metrics.loss_sum) / 24)
    # A value has 8 bits, so a loss of about 1 is uncertain by some thousandths.
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0, atol=0.004)
    assert losses["bfloat16"][-1] < 0.5 * losses["bfloat16"][0]


def test_at_another_size_tables_are_resized_and_all_parameters_learn_in_their_shapes():
    # Residual branches that start as nothing would have no gradient in the first step.
    step, start, model = network(zero_residual_init=False)
    state = start()
    for size in ((8, 8), (12, 20), SIZE):
        before = jax.tree.map(jnp.copy, state.variables)
        resized, variables = resize_relative_positions(model, before, size)
        batch = batch_of(6, size=size)
        images = CROPPED.normalize(batch.image)
        logits, _ = resized.apply(variables, images, train=True, mutable=["batch_stats"])
        targets = optax.smooth_labels(jax.nn.one_hot(batch.label, 3), 0.1)
        expected = float(optax.softmax_cross_entropy(logits, targets).sum())
        state, metrics = step(state, batch)
        assert float(metrics.loss_sum) == pytest.approx(expected, rel=1e-5)
        assert jax.tree.map(jnp.shape, state.variables) == jax.tree.map(jnp.shape, before)
        same = jax.tree.map(np.array_equal, before["params"], state.variables["params"])
        assert not any(jax.tree.leaves(same))
