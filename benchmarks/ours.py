"""This library, as its users run it, and its plain reference path."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import (
    LEARNING_RATE,
    MOMENTUM,
    UPDATES_COMPARED,
    Case,
    inputs_and_labels,
    our_variables,
)
from benchmarks.implementations import PRODUCT_SIDE, Built, process_peak_bytes
from bottleneck_transformer_flax.axes import Array
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.surgery import fold_batch_norm
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.train_state import create_state
from bottleneck_transformer_flax.training.train_step import (
    DeviceBatch,
    make_train_step,
    step_compiler_options,
)


def build(
    case: Case,
    folder: Path,
    *,
    execution: Execution = Execution(),
    folded: bool = True,
    product: bool = False,
) -> Built:
    """Compile this library's function for a case.

    Args:
        case: the work.
        folder: the folder of its weights and inputs.
        execution: how it is computed.
        folded: whether batch norms are folded for inference.
        product: whether to compute a large matrix product instead.
    """
    with jax.default_matmul_precision("highest" if case.exact else None):
        if product:
            side = jnp.ones((PRODUCT_SIDE, PRODUCT_SIDE))
            return _compiled(jax.jit(jnp.matmul), side, side)
        if case.of_layer:
            return _layer(case, folder, execution.attention_backend)
        model = BoTNet(config=case.config, execution=execution)
        if case.workload == "training":
            return _training(model, folder)
        variables = our_variables(folder)
        inputs, labels = inputs_and_labels(folder)
        if case.workload == "gradients":
            images, classes = jnp.asarray(inputs), jnp.asarray(labels, jnp.int32)
            return _compiled(_gradients(model), variables, images, classes, compared=0)
        if folded:
            model, variables = fold_batch_norm(model, variables)
        return _compiled(jax.jit(model.apply), variables, jnp.asarray(inputs))


def _compiled(function: Any, *arguments: Any, compared: int = 1) -> Built:
    """Compile a jitted function for its arguments; the first ``compared`` results are compared."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    results = jax.block_until_ready(compiled(*arguments))
    seconds = time.perf_counter() - start
    results = results if isinstance(results, tuple) else (results,)
    outputs = tuple(np.asarray(result, np.float32) for result in results[:compared])
    return _built(lambda: compiled(*arguments), outputs, seconds, compiled)


def _built(
    call: Callable[[], Any], outputs: tuple[np.ndarray, ...], seconds: float, compiled: Any
) -> Built:
    on_cpu = jax.default_backend() == "cpu"
    analysis = compiled.memory_analysis()

    def run(calls: int) -> None:
        result = None
        for _ in range(calls):
            result = call()
            if on_cpu:
                # A GPU runs one call after the other, and the next is queued while it is busy.
                jax.block_until_ready(result)
        jax.block_until_ready(result)

    return Built(
        run,
        outputs,
        seconds,
        None if analysis is None else int(analysis.temp_size_in_bytes),
        process_peak_bytes if on_cpu else lambda: _program_bytes(analysis),
    )


def _program_bytes(analysis: Any) -> int | None:
    """Size of a program's arguments, results and temporaries; aliased buffers count once."""
    if analysis is None:
        return None
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def _layer(case: Case, folder: Path, backend: str) -> Built:
    layer = case.attention_layer(backend)
    variables, inputs = our_variables(folder), jnp.asarray(inputs_and_labels(folder)[0])
    if case.workload == "attention":
        return _compiled(jax.jit(layer.apply), variables, inputs)

    def objective(variables: Any, inputs: Array) -> tuple[Array, Any]:
        output: Array = layer.apply(variables, inputs)  # type: ignore[assignment]
        return jnp.sum(jnp.square(output)), output

    def gradients(variables: Any, inputs: Array) -> tuple[Any, ...]:
        differentiate = jax.grad(objective, argnums=(0, 1), has_aux=True)
        (of_variables, of_inputs), output = differentiate(variables, inputs)
        return output, of_inputs, of_variables

    return _compiled(jax.jit(gradients), variables, inputs, compared=2)


def _training(model: BoTNet, folder: Path) -> Built:
    images, labels = inputs_and_labels(folder)
    optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    step = make_train_step(model, optimizer, Preprocessing(), seed=0)
    state = create_state(our_variables(folder), optimizer, average=False)
    batch = DeviceBatch(
        jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.ones(len(labels), bool)
    )
    start = time.perf_counter()
    compiled = step.lower(state, batch).compile()

    def update() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics

    losses = [float(update().loss_sum) / len(labels)]
    seconds = time.perf_counter() - start
    losses += [float(update().loss_sum) / len(labels) for _ in range(UPDATES_COMPARED - 1)]
    return _built(update, (np.array(losses),), seconds, compiled)


def _gradients(model: BoTNet) -> Any:
    """Make a jitted function that returns the mean loss, new batch statistics and gradients."""

    def loss(params: Any, variables: Any, images: Array, labels: Array) -> Any:
        logits, updates = model.apply(
            variables | {"params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), updates

    def gradients(variables: Any, images: Array, labels: Array) -> Any:
        differentiate = jax.value_and_grad(loss, has_aux=True)
        return differentiate(variables["params"], variables, images, labels)

    return jax.jit(gradients, compiler_options=step_compiler_options())
