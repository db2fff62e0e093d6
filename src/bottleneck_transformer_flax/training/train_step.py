"""The train step: a pure function from a state and a batch to the next state and its metrics."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bottleneck_transformer_flax.augmentation.batch import augment_batch
from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.axes import Array, Bool, Float, Int, UInt8
from bottleneck_transformer_flax.distributed import DataParallel
from bottleneck_transformer_flax.layers.conv_algorithms import compiler_options
from bottleneck_transformer_flax.layers.sharding import sharded_by_batch
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.execution import Execution
from bottleneck_transformer_flax.models.surgery import resized_tables
from bottleneck_transformer_flax.preprocessing import Preprocessing
from bottleneck_transformer_flax.training.class_balance import class_weights
from bottleneck_transformer_flax.training.config import RunConfig
from bottleneck_transformer_flax.training.metrics import StepMetrics
from bottleneck_transformer_flax.training.optimizer import make_optimizer, part_rates
from bottleneck_transformer_flax.training.train_state import TrainState, Variables, updated_average

NO_AUGMENTATION = Augmentation(flip=False)

TrainStep = Any
"""A jitted function (TrainState, DeviceBatch, learning rate) → (TrainState, StepMetrics)."""


class DeviceBatch(NamedTuple):
    """The part of a batch that the step reads; images are RGB in [0, 255]."""

    image: UInt8[Array, "b h w c"] | UInt8[np.ndarray, "b h w c"]
    label: Int[Array, " b"] | Int[np.ndarray, " b"]
    valid: Bool[Array, " b"] | Bool[np.ndarray, " b"]


class _Examples(NamedTuple):
    """Normalised and augmented images with their targets."""

    image: Float[Array, "b h w c"]
    target: Float[Array, "b classes"]
    label: Int[Array, " b"]
    valid: Bool[Array, " b"]


def make_optimizer_and_step(
    config: RunConfig,
    model: BoTNet,
    preprocessing: Preprocessing,
    labels: Int[np.ndarray, " n"],
    devices: DataParallel,
) -> tuple[optax.GradientTransformation, TrainStep]:
    """The optimizer and the train step of a run, with its parts of the model frozen.

    Args:
        config: options of the run.
        model: the model as it is scored and saved.
        preprocessing: how images become the model's input.
        labels: classes of the training images.
        devices: the devices to train on.
    """
    optimization, fine_tuning = config.optimization, config.fine_tuning
    execution = Execution(
        remat=optimization.remat,
        batch_norm_groups=optimization.batch_norm_groups,
        frozen_through=fine_tuning.frozen_through,
        frozen_batch_stats=fine_tuning.frozen_batch_stats,
    )
    rates = part_rates(fine_tuning.backbone_rate, model, execution.frozen_parts)
    # The step scales its updates, so that one compiled program serves runs of every length.
    optimizer = make_optimizer(optimization, optax.constant_schedule(1.0), rates)
    weighted = config.class_balance == "weights"
    train_step = make_train_step(
        model.clone(execution=execution),
        optimizer,
        preprocessing,
        seed=config.seed,
        label_smoothing=optimization.label_smoothing,
        class_weights=class_weights(labels, model.config.num_classes) if weighted else None,
        accumulation_steps=optimization.accumulation_steps,
        ema_decay=optimization.ema_decay,
        augmentation=config.augmentation,
        devices=devices,
    )
    return optimizer, train_step


def make_train_step(
    model: BoTNet,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    *,
    seed: int,
    label_smoothing: float = 0.0,
    class_weights: Float[np.ndarray, " classes"] | None = None,
    accumulation_steps: int = 1,
    ema_decay: float | None = None,
    augmentation: Augmentation = NO_AUGMENTATION,
    devices: DataParallel | None = None,
) -> TrainStep:
    """The jitted train step; it donates the state given to it.

    The loss is the mean over the valid images of the batch of w(y) CE(p, t): t is the target of an
    image of class y, perhaps smoothed, and w its class weight or 1. Two images mixed have the loss
    λ w(y) CE(p, t) + (1 − λ) w(y') CE(p, t'). All randomness follows from ``seed`` and
    ``state.step``, so a step is a pure function of its arguments. For images of another size than
    the preprocessing's, as in progressive resizing, relative tables are interpolated to their grid,
    so that the parameters keep their shapes. The learning rate scales the optimizer's updates.
    """
    targets = model.config.num_classes, label_smoothing, class_weights
    examples = partial(_examples, preprocessing, *targets, augmentation)
    loss_gradients = jax.value_and_grad(_loss_sum(model, preprocessing), has_aux=True)
    gradients = _accumulated(loss_gradients, accumulation_steps)

    def train_step(
        state: TrainState, batch: DeviceBatch, learning_rate: Float[Array, ""] | float = 1.0
    ) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        augmentation_key, model_key = jax.random.split(key)
        batch_examples = examples(batch, augmentation_key)
        gradient, batch_stats, loss, correct = gradients(state.variables, batch_examples, model_key)
        count = jnp.sum(batch.valid)
        gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1).astype(g.dtype), gradient)
        updates, optimizer_state = _updates(optimizer, gradient, state)
        updates = optax.tree.scale(learning_rate, updates)
        params = optax.apply_updates(state.variables["params"], updates)
        variables = {"params": params, "batch_stats": batch_stats}
        norms = optax.tree.norm(gradient), optax.tree.norm(updates)
        metrics = StepMetrics(loss, correct, count, *norms)
        new_state = TrainState(
            step=state.step + 1,
            variables=variables,
            average=updated_average(state, variables, ema_decay),
            optimizer_state=optimizer_state,
        )
        if devices is not None:
            return devices.constrain_state(new_state), devices.constrain_replicated(metrics)
        return new_state, metrics

    return jax.jit(train_step, donate_argnums=0, compiler_options=step_compiler_options())


def _updates(
    optimizer: optax.GradientTransformation, gradient: Variables, state: TrainState
) -> tuple[Variables, Any]:
    """What the optimizer adds to the parameters, and its next state."""
    # Optax raises floats to the power of integers, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(gradient, state.optimizer_state, state.variables["params"])


def _examples(
    preprocessing: Preprocessing,
    num_classes: int,
    label_smoothing: float,
    class_weights: Float[np.ndarray, " classes"] | None,
    augmentation: Augmentation,
    batch: DeviceBatch,
    key: Array,
) -> _Examples:
    """The whole batch as the loss sees it; mixtures are made before it is split."""
    image, label, valid = map(jnp.asarray, batch)
    one_hot = jax.nn.one_hot(label, num_classes)
    targets = optax.smooth_labels(one_hot, label_smoothing)
    if class_weights is not None:
        # Cross-entropy is linear in the targets: what scales them scales the loss, mixed or not.
        targets *= jnp.sum(one_hot * class_weights[None], axis=1, keepdims=True)
    images, targets = augment_batch(
        preprocessing.normalize(image), targets, valid, key, augmentation
    )
    return _Examples(images, targets, label, valid)


def _loss_sum(model: BoTNet, preprocessing: Preprocessing) -> Callable[..., Any]:
    """The function to differentiate: summed loss, new batch statistics, and number correct."""

    def loss_sum(
        params: Variables, batch_stats: Variables, batch: _Examples, key: Array
    ) -> tuple[Array, tuple[Variables, Array]]:
        height, width = batch.image.shape[1:3]
        if (height, width) != preprocessing.size:
            params = resized_tables(model, params, (height, width))
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch.image,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        losses = optax.softmax_cross_entropy(logits, batch.target)
        correct = jnp.sum((jnp.argmax(logits, axis=-1) == batch.label) & batch.valid)
        return jnp.sum(losses * batch.valid.astype(losses.dtype)), (updates["batch_stats"], correct)

    return loss_sum


def _accumulated(
    differentiate: Callable[..., Any], steps: int
) -> Callable[[Variables, _Examples, Array], tuple[Variables, Variables, Array, Array]]:
    """Gradient of the summed loss, new batch statistics, summed loss, and number correct.

    The batch is computed in ``steps`` micro-batches, one after the other. The k-th takes every
    image whose position is k modulo ``steps``: each device then holds images of every micro-batch.
    """

    def whole_batch(
        variables: Variables, batch: _Examples, key: Array
    ) -> tuple[Variables, Variables, Array, Array]:
        params, batch_stats = variables["params"], variables["batch_stats"]
        if steps == 1:
            (loss, (stats, correct)), gradient = differentiate(params, batch_stats, batch, key)
            return gradient, stats, loss, correct

        def micro_step(carry: Any, inputs: Any) -> tuple[Any, None]:
            gradient, stats, loss, correct = carry
            micro_batch, micro_key = inputs
            (more_loss, (stats, more_correct)), more = differentiate(
                params, stats, micro_batch, micro_key
            )
            gradient = jax.tree.map(jnp.add, gradient, more)
            return (gradient, stats, loss + more_loss, correct + more_correct), None

        split: Callable[[Array], Array] = sharded_by_batch(
            lambda x: x.reshape(-1, steps, *x.shape[1:])
        )
        parts = jax.tree.map(lambda x: split(x).swapaxes(0, 1), batch)
        zeros = jax.tree.map(jnp.zeros_like, params)
        start = (zeros, batch_stats, jnp.zeros(()), jnp.zeros((), jnp.int32))
        total, _ = jax.lax.scan(micro_step, start, (parts, jax.random.split(key, steps)))
        return total

    return whole_batch


def step_compiler_options() -> dict[str, str]:
    """XLA options for a function that holds a model's backward pass.

    JAX puts barriers into the program so that rematerialised values are computed only when they
    are needed. On CPU, XLA removes the barriers before it orders the operations, computes
    everything as early as it can, and saves no memory.
    """
    if jax.default_backend() != "cpu":
        return {}
    return compiler_options() | {"xla_disable_hlo_passes": "cse_barrier_expander"}
