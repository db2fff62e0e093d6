"""Whole networks on a GPU: T3 beside timm's, and T7 beside an EfficientNet."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks import gpu_peers
from benchmarks.cases import (
    Case,
    Workload,
    inputs_and_labels,
    our_variables,
    timm_arrays,
    write_case,
)
from benchmarks.gpu_measure import (
    Compiled,
    Row,
    Work,
    compile_now,
    difference,
    grid_name,
    program_bytes,
    time_in_turns,
)
from benchmarks.gpu_memory import free_memory, with_memory
from benchmarks.gpu_peers import Prepared
from benchmarks.gpu_settings import Settings
from benchmarks.implementations import (
    LEARNING_RATE,
    MOMENTUM,
    UPDATES_COMPARED,
)
from bottleneck_transformer_flax.axes import Array
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.flops import abstract_variables
from bottleneck_transformer_flax.models.surgery import Variables, fold_batch_norm
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.train_state import create_state
from bottleneck_transformer_flax.training.train_step import (
    DeviceBatch,
    make_train_step,
    step_compiler_options,
)
from reference.timm_networks import load_network, named_network
from reference.variables import random_variables

OURS = "ours"
T3_INFERENCE, T3_TRAINING, HEADLINE = "t3-inference", "t3-training", "t7-efficientnet"
FLOAT32_DIFFERENCE = 1e-3
"""Of T3's logits or losses from timm's, as a fraction of the largest, both computed in float32."""


def measure_t3_inference(settings: Settings) -> list[Row]:
    """Logits of normalised images on the device: ours with folded norms."""
    return _measure_t3("inference", settings)


def measure_t3_training(settings: Settings) -> list[Row]:
    """Updates by SGD with momentum from images that are on the device."""
    return _measure_t3("training", settings)


def measure_headline(settings: Settings) -> list[Row]:
    """The gradient of a batch's mean loss, forward and backward in training, with no update."""
    return with_memory(_headline, settings.t7_batch, settings)


def _measure_t3(workload: Workload, settings: Settings) -> list[Row]:
    """Compare both in float32, then time them; rows of networks that differ say so.

    What they compute in bfloat16 is compared too, and not judged: it differs by what rounding makes
    of it in some fifty layers.
    """
    device = _device(settings)
    with gpu_peers.exact_products():
        ours, theirs = _prepare(
            workload, settings.compared_batch, settings.for_comparison(), device
        )
    apart = difference(ours.outputs, theirs.outputs)
    del ours, theirs
    free_memory()
    return with_memory(partial(_time_t3, workload, apart), settings.t3_batch, settings)


def _time_t3(workload: Workload, apart: float, batch_size: int, settings: Settings) -> list[Row]:
    """Rows of both, which are ``apart`` in float32."""
    ours, theirs = _prepare(workload, batch_size, settings, _device(settings))
    largest = difference(ours.outputs, theirs.outputs)
    row = Row(
        section=_T3[workload].section,
        case=f"botnet_t3 {grid_name(settings.t3_size)}",
        quantity=_T3[workload].quantity,
        dtype=settings.dtype,
        batch_size=batch_size,
        status=_problem(apart, largest) or settings.status,
        float32_difference=apart,
    )
    return time_in_turns([ours.work, theirs.work], settings, row, {OURS: largest})


def _problem(apart: float, largest: float) -> str:
    """What is wrong with networks that are ``apart`` in float32; empty where nothing is.

    Args:
        apart: of both in float32.
        largest: of both as they are timed.
    """
    # Written so that NaN is wrong too.
    if not apart <= FLOAT32_DIFFERENCE:
        return (
            f"failed: in float32 the outputs differ by {apart:.1e} of their scale; at most "
            f"{FLOAT32_DIFFERENCE:g} is expected"
        )
    return "" if math.isfinite(largest) else "failed: the outputs are not all finite"


def _prepare(
    workload: Workload, batch_size: int, settings: Settings, device: torch.device
) -> tuple[Prepared, Prepared]:
    """Ours and timm's, with the same weights and images.

    Ours is compiled and has run before timm's begins, so that neither's compilation takes time from
    the other's, nor disturbs how the other's kernels are chosen.
    """
    case = Case(
        workload=workload,
        variant="botnet_t3",
        config=settings.t3,
        size=settings.t3_size,
        batch_size=batch_size,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(case, folder)
        ours = _T3[workload].ours(case, folder)
        network = load_network(case.config, case.size, timm_arrays(folder))
        return ours, _T3[workload].theirs(network, folder, settings, device)


def _our_inference(case: Case, folder: Path) -> Prepared:
    images, _ = inputs_and_labels(folder)
    model, variables = fold_batch_norm(BoTNet(config=case.config), our_variables(folder))
    arguments = (variables, jnp.asarray(images))
    program = compile_now(jax.jit(model.apply), *arguments, exact=_is_float32(case.config.dtype))
    work = program.work(OURS, *arguments)
    return Prepared(work, np.asarray(program.call(*arguments), np.float32))


def _their_inference(
    network: Any, folder: Path, settings: Settings, device: torch.device
) -> Prepared:
    images, _ = inputs_and_labels(folder)
    return gpu_peers.inference(network, images, settings, device)


def _our_training(case: Case, folder: Path) -> Prepared:
    images, labels = inputs_and_labels(folder)
    optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    step = make_train_step(BoTNet(config=case.config), optimizer, Preprocessing(), seed=0)
    state = create_state(our_variables(folder), optimizer, average=False)
    batch = DeviceBatch(
        jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.ones(len(labels), bool)
    )
    return _updates(
        compile_now(step, state, batch, exact=_is_float32(case.config.dtype)), state, batch
    )


def _updates(program: Compiled, state: Any, batch: DeviceBatch) -> Prepared:
    """Updates, each of which uses up the state of the one before, and the first losses."""

    def update() -> Any:
        nonlocal state
        state, metrics = program.call(state, batch)
        return metrics

    def loss() -> float:
        return float(update().loss_sum) / len(batch.label)

    began = time.perf_counter()
    losses = [loss()]
    seconds = program.seconds + time.perf_counter() - began
    losses += [loss() for _ in range(UPDATES_COMPARED - 1)]
    work = Work(OURS, update, jax.block_until_ready, lambda: program_bytes(program.call), seconds)
    return Prepared(work, np.array(losses))


def _their_training(
    network: Any, folder: Path, settings: Settings, device: torch.device
) -> Prepared:
    images, labels = inputs_and_labels(folder)
    return gpu_peers.training(network, Preprocessing().normalize(images), labels, settings, device)


class _Compared(NamedTuple):
    """What both do with T3."""

    section: str
    quantity: str
    ours: Callable[[Case, Path], Prepared]
    theirs: Callable[[Any, Path, Settings, torch.device], Prepared]


_T3: Mapping[Workload, _Compared] = {
    "inference": _Compared(T3_INFERENCE, "inference", _our_inference, _their_inference),
    "training": _Compared(T3_TRAINING, "training step", _our_training, _their_training),
}


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
    exact = _is_float32(settings.t7.dtype)
    # Ours first and whole, as in ``_prepare``.
    ours = compile_now(_gradients_of(model), *arguments, exact=exact).work(OURS, *arguments)
    network = named_network(settings.efficientnet, settings.t7.num_classes)
    theirs = gpu_peers.gradients(
        network, images_of(settings.efficientnet_size), labels, settings, device
    )
    row = Row(
        section=HEADLINE,
        case=f"botnet_t7 {grid_name(settings.t7_size)}, {settings.efficientnet} "
        + grid_name(settings.efficientnet_size),
        quantity="forward + backward",
        dtype=settings.t7.dtype.name,
        batch_size=batch_size,
        status=settings.status,
    )
    return time_in_turns([ours, theirs.work], settings, row)


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


def _is_float32(dtype: Any) -> bool:
    return bool(dtype == jnp.float32)


def _device(settings: Settings) -> torch.device:
    return gpu_peers.torch_device(needs_gpu=settings.full_size)
