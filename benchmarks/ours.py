"""This library, as its users run it, and its plain reference path."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import Case, inputs_and_labels, our_variables
from benchmarks.implementations import (
    LEARNING_RATE,
    MOMENTUM,
    PRODUCT_SIDE,
    UPDATES_COMPARED,
    Built,
)
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.surgery import fold_batch_norm
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.train_state import create_state
from bottleneck_transformer_flax.training.train_step import (
    DeviceBatch,
    make_train_step,
)


def build(case: Case, folder: Path) -> Built:
    """The fastest attention and, in inference, folded batch norm."""
    return _build(case, folder, Execution(), folded=True)


def build_remat(case: Case, folder: Path) -> Built:
    """The training step whose backward pass computes whole blocks again."""
    return _training(BoTNet(config=case.config, execution=Execution(remat=True)), folder)


def build_reference(case: Case, folder: Path) -> Built:
    """The model as it is trained, with all attention weights in memory."""
    plain = Execution(attention_backend="reference", convolution_algorithm="plain")
    return _build(case, folder, plain, folded=False)


def build_product(case: Case, folder: Path) -> Built:
    """A large matrix product."""
    side = jnp.ones((PRODUCT_SIDE, PRODUCT_SIDE))
    return _compiled(jnp.matmul, side, side)


def _build(case: Case, folder: Path, execution: Execution, *, folded: bool) -> Built:
    if case.of_layer:
        return _layer(case, folder, execution.attention_backend)
    model = BoTNet(config=case.config, execution=execution)
    if case.workload == "training":
        return _training(model, folder)
    variables = our_variables(folder)
    if folded:
        model, variables = fold_batch_norm(model, variables)
    images, _ = inputs_and_labels(folder)
    return _compiled(model.apply, variables, jnp.asarray(images))


def _layer(case: Case, folder: Path, backend: str) -> Built:
    layer = case.attention_layer(backend)
    inputs = jnp.asarray(inputs_and_labels(folder)[0])

    def gradients(variables: Any, inputs: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        def objective(variables: Any, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            output: jax.Array = layer.apply(variables, inputs)  # type: ignore[assignment]
            return jnp.sum(output**2), output

        (of_variables, of_inputs), output = jax.grad(objective, argnums=(0, 1), has_aux=True)(
            variables, inputs
        )
        return output, of_inputs, of_variables

    function = layer.apply if case.workload == "attention" else gradients
    return _compiled(function, our_variables(folder), inputs)


def _compiled(function: Callable[..., Any], variables: Any, inputs: jax.Array) -> Built:
    start = time.perf_counter()
    compiled = jax.jit(function).lower(variables, inputs).compile()
    outputs = jax.block_until_ready(compiled(variables, inputs))
    seconds = time.perf_counter() - start
    compared = outputs[:2] if isinstance(outputs, tuple) else (outputs,)
    return Built(
        lambda: jax.block_until_ready(compiled(variables, inputs)),
        tuple(map(np.asarray, compared)),
        seconds,
        _temporaries(compiled),
    )


def _training(model: BoTNet, folder: Path) -> Built:
    images, labels = inputs_and_labels(folder)
    optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    step: Any = make_train_step(model, optimizer, Preprocessing(), seed=0)
    state = create_state(our_variables(folder), optimizer, average=False)
    batch = DeviceBatch(
        jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.ones(len(labels), bool)
    )
    start = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    losses = []

    def update() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        losses.append(float(metrics.loss_sum) / len(labels))

    update()
    seconds = time.perf_counter() - start
    while len(losses) < UPDATES_COMPARED:
        update()
    return Built(update, (np.array(losses),), seconds, _temporaries(compiled))


def _temporaries(compiled: Any) -> int | None:
    analysis = compiled.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)
