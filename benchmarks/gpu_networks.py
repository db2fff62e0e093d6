"""Whole networks on a GPU: T3 beside timm's, and T7 beside an EfficientNet."""

import gc
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_peers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from gpu_measure import (
    Compiled,
    Row,
    Work,
    compile_in,
    difference,
    grid_name,
    program_bytes,
    time_in_turns,
)
from gpu_settings import MEASURED, Settings

from bottleneck_transformer_flax.axes import Array
from bottleneck_transformer_flax.benchmarking.cases import (
    Case,
    Workload,
    inputs_and_labels,
    our_variables,
    random_variables,
    timm_arrays,
    write_case,
)
from bottleneck_transformer_flax.benchmarking.implementations import (
    LEARNING_RATE,
    MOMENTUM,
    UPDATES_COMPARED,
)
from bottleneck_transformer_flax.benchmarking.timm_networks import load_network, named_network
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.cost import abstract_variables
from bottleneck_transformer_flax.models.surgery import Variables, fold_batch_norm
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.state import (
    DeviceBatch,
    create_state,
    make_train_step,
    step_compiler_options,
)

OURS = "ours"
T3_INFERENCE, T3_TRAINING, HEADLINE = "t3-inference", "t3-training", "t7-efficientnet"


def measure_t3_inference(settings: Settings) -> list[Row]:
    """Logits of normalised images on the device: ours with folded norms."""
    return _with_memory(_t3_inference, settings.t3_batch, settings)


def measure_t3_training(settings: Settings) -> list[Row]:
    """Updates by SGD with momentum from images that are on the device."""
    return _with_memory(_t3_training, settings.t3_batch, settings)


def measure_headline(settings: Settings) -> list[Row]:
    """The gradient of a batch's mean loss, forward and backward in training, with no update."""
    return _with_memory(_headline, settings.t7_batch, settings)


def free_memory() -> None:
    """Give back what earlier work has left in memory."""
    torch._dynamo.reset()
    jax.clear_caches()
    gc.collect()
    torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether the device had no room, as either library says it."""
    return isinstance(error, torch.OutOfMemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _with_memory(
    measure: Callable[[int, Settings], list[Row]], batch_size: int, settings: Settings
) -> list[Row]:
    """Measure with half the batch for as long as it does not fit."""
    while True:
        try:
            return measure(batch_size, settings)
        except Exception as error:
            if not out_of_memory(error) or batch_size == 1:
                raise
        # Here, where the error no longer holds what was in memory.
        print(f"a batch of {batch_size} does not fit into memory; trying {batch_size // 2}")
        batch_size //= 2
        free_memory()


def _t3_inference(batch_size: int, settings: Settings) -> list[Row]:
    device = _device(settings)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as pool:
        case = _t3_case("inference", batch_size, settings)
        folder = Path(name)
        write_case(case, folder)
        images, _ = inputs_and_labels(folder)
        model, variables = fold_batch_norm(BoTNet(config=case.config), our_variables(folder))
        arguments = (variables, jnp.asarray(images))
        program = compile_in(
            pool, jax.jit(model.apply), *arguments, exact=settings.dtype == "float32"
        )
        network = load_network(case.config, case.size, timm_arrays(folder))
        peer = gpu_peers.inference(network, images, settings, device)
        ours = program.result()
    logits = np.asarray(ours.call(*arguments), np.float32)
    row = _row(T3_INFERENCE, "botnet_t3", case.size, "inference", batch_size, settings)
    return _compare_and_time(ours.work(OURS, *arguments), logits, peer, settings, row)


def _t3_training(batch_size: int, settings: Settings) -> list[Row]:
    device = _device(settings)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as pool:
        case = _t3_case("training", batch_size, settings)
        folder = Path(name)
        write_case(case, folder)
        images, labels = inputs_and_labels(folder)
        optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
        step = make_train_step(BoTNet(config=case.config), optimizer, Preprocessing(), seed=0)
        state = create_state(our_variables(folder), optimizer, average=False)
        batch = _on_device(images, labels)
        program = compile_in(pool, step, state, batch, exact=settings.dtype == "float32")
        network = load_network(case.config, case.size, timm_arrays(folder))
        normalised = Preprocessing().normalize(images)
        peer = gpu_peers.training(network, normalised, labels, settings, device)
        ours = program.result()
    work, losses = _updates(ours, state, batch)
    row = _row(T3_TRAINING, "botnet_t3", case.size, "training step", batch_size, settings)
    return _compare_and_time(work, losses, peer, settings, row)


def _headline(batch_size: int, settings: Settings) -> list[Row]:
    device = _device(settings)
    random = np.random.default_rng(1)

    def images_of(size: tuple[int, int]) -> np.ndarray:
        return random.normal(size=(batch_size, *size, 3)).astype(np.float32)

    labels = random.integers(settings.t7.num_classes, size=batch_size)
    model = BoTNet(config=settings.t7)
    variables = random_variables(abstract_variables(model, settings.t7_size))
    images = jnp.asarray(images_of(settings.t7_size))
    arguments = (variables, images, jnp.asarray(labels, jnp.int32))
    with ThreadPoolExecutor(1) as pool:
        program = compile_in(
            pool, _gradients_of(model), *arguments, exact=settings.dtype == "float32"
        )
        network = named_network(settings.efficientnet, settings.t7.num_classes)
        peer = gpu_peers.gradients(
            network, images_of(settings.efficientnet_size), labels, settings, device
        )
        ours = program.result()
    case = f"botnet_t7 {grid_name(settings.t7_size)}, {settings.efficientnet} " + grid_name(
        settings.efficientnet_size
    )
    row = _row(HEADLINE, case, None, "forward + backward", batch_size, settings)
    return time_in_turns([ours.work(OURS, *arguments), peer.work], settings, row)


def _gradients_of(model: BoTNet) -> Any:
    """A jitted function to the mean loss, the new batch statistics and the gradients."""

    def loss(params: Variables, variables: Variables, images: Array, labels: Array) -> Any:
        logits, updates = model.apply(
            variables | {"params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), updates

    def gradients(variables: Variables, images: Array, labels: Array) -> Any:
        differentiate = jax.value_and_grad(loss, has_aux=True)
        return differentiate(variables["params"], variables, images, labels)

    return jax.jit(gradients, compiler_options=step_compiler_options())


def _updates(ours: Compiled, state: Any, batch: DeviceBatch) -> tuple[Work, np.ndarray]:
    """Updates, each of which uses up the state of the one before, and the first losses."""

    def update() -> Any:
        nonlocal state
        state, metrics = ours.call(state, batch)
        return metrics

    losses = [float(update().loss_sum) / len(batch.label) for _ in range(UPDATES_COMPARED)]
    work = Work(OURS, update, jax.block_until_ready, lambda: program_bytes(ours.call), ours.seconds)
    return work, np.array(losses)


def _compare_and_time(
    ours: Work, outputs: np.ndarray, peer: gpu_peers.Peer, settings: Settings, row: Row
) -> list[Row]:
    """Compare, then time; rows of networks that compute something else say so."""
    largest = difference(outputs, peer.outputs)
    print(f"largest difference of outputs from timm's, as a fraction of their scale: {largest:.1e}")
    # Written so that NaN is wrong too.
    if not largest <= settings.largest_difference:
        problem = (
            f"failed: outputs differ by {largest:.1e} of their scale; at most "
            f"{settings.largest_difference:g} is expected"
        )
        row = replace(row, status=problem)
    return time_in_turns([ours, peer.work], settings, row, {OURS: largest})


def _t3_case(workload: Workload, batch_size: int, settings: Settings) -> Case:
    return Case(
        workload=workload,
        variant="botnet_t3",
        config=settings.t3,
        size=settings.t3_size,
        batch_size=batch_size,
    )


def _on_device(images: np.ndarray, labels: np.ndarray) -> DeviceBatch:
    return DeviceBatch(
        jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.ones(len(labels), bool)
    )


def _device(settings: Settings) -> torch.device:
    return gpu_peers.torch_device(needs_gpu=settings.status == MEASURED)


def _row(
    section: str,
    name: str,
    size: tuple[int, int] | None,
    quantity: str,
    batch_size: int,
    settings: Settings,
) -> Row:
    return Row(
        section=section,
        case=f"{name} {grid_name(size)}" if size else name,
        quantity=quantity,
        dtype=settings.dtype,
        batch_size=batch_size,
        status=settings.status,
    )
