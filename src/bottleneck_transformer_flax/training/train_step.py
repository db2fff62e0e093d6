"""The state of a training run, and the one pure step that moves it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bottleneck_transformer_flax.augmentation.batch import augment_batch
from bottleneck_transformer_flax.augmentation.config import Augmentation
from bottleneck_transformer_flax.axes import Array, Bool, Float, Int, UInt8
from bottleneck_transformer_flax.distributed import DataParallel
from bottleneck_transformer_flax.models.botnet import BoTNet
from bottleneck_transformer_flax.models.surgery import resized_tables
from bottleneck_transformer_flax.preprocessing import Preprocessing

Variables = dict[str, Any]
NOTHING = Augmentation(flip=False)


class TrainState(flax.struct.PyTreeNode):
    """All that training changes.

    Attributes:
        step: updates made so far.
        variables: parameters and batch statistics.
        average: their exponential moving average; None where the run keeps none.
        optimizer_state: of optax.
    """

    step: Int[Array, ""]
    variables: Variables
    average: Variables | None
    optimizer_state: Any

    @property
    def inference_variables(self) -> Variables:
        """The variables to score and to save: the average where there is one."""
        return self.variables if self.average is None else self.average


class DeviceBatch(NamedTuple):
    """What a step reads of a batch; images are RGB in [0, 255]."""

    image: UInt8[Array, "b h w c"] | UInt8[np.ndarray, "b h w c"]
    label: Int[Array, " b"] | Int[np.ndarray, " b"]
    valid: Bool[Array, " b"] | Bool[np.ndarray, " b"]


class StepMetrics(NamedTuple):
    """What a step says of its batch: sums over the valid images, and how many those are."""

    loss_sum: Float[Array, ""]
    correct: Int[Array, ""]
    images: Int[Array, ""]
    gradient_norm: Float[Array, ""]
    update_norm: Float[Array, ""]


class _Examples(NamedTuple):
    """What the loss is of: normalised and augmented images with their targets."""

    image: Float[Array, "b h w c"]
    target: Float[Array, "b classes"]
    label: Int[Array, " b"]
    valid: Bool[Array, " b"]


TrainStep = Any
"""A jitted function from (TrainState, DeviceBatch) to (TrainState, StepMetrics)."""


def create_state(
    variables: Variables, optimizer: optax.GradientTransformation, *, average: bool
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        # A copy: the step donates its state, and no buffer can be donated twice.
        average=jax.tree.map(jnp.copy, variables) if average else None,
        optimizer_state=optimizer.init(variables["params"]),
    )


def make_train_step(
    model: BoTNet,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    *,
    seed: int,
    label_smoothing: float = 0.0,
    accumulation_steps: int = 1,
    ema_decay: float | None = None,
    augmentation: Augmentation = NOTHING,
    devices: DataParallel | None = None,
) -> TrainStep:
    """The jitted step; the state given to it is used up.

    The loss is the mean cross-entropy over the valid images of the batch. All randomness comes
    from ``seed`` and ``state.step``, so a step is a pure function of its arguments. Images of
    another size than the preprocessing's are of a phase of progressive resizing: relative tables
    are interpolated to their grid, so that the parameters keep their shapes.
    """

    def examples(batch: DeviceBatch, key: Array) -> _Examples:
        image, label, valid = map(jnp.asarray, batch)
        images = preprocessing.normalize(image)
        targets = jax.nn.one_hot(label, model.config.num_classes)
        targets = optax.smooth_labels(targets, label_smoothing)
        # Before the batch is taken apart: its parts are then those of the whole.
        images, targets = augment_batch(images, targets, valid, key, augmentation)
        return _Examples(images, targets, label, valid)

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
        return jnp.sum(losses * batch.valid), (updates["batch_stats"], correct)

    gradients = _accumulated(jax.value_and_grad(loss_sum, has_aux=True), accumulation_steps)

    def train_step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        of_images, of_model = jax.random.split(key)
        gradient, batch_stats, loss, correct = gradients(
            state.variables, examples(batch, of_images), of_model
        )
        count = jnp.sum(batch.valid)
        gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1), gradient)
        params = state.variables["params"]
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, params)
        variables = {
            "params": optax.apply_updates(params, updates),
            "batch_stats": batch_stats,
        }
        norms = optax.tree.norm(gradient), optax.tree.norm(updates)
        metrics = StepMetrics(loss, correct, count, *norms)
        new_state = TrainState(
            step=state.step + 1,
            variables=variables,
            average=_moved_average(state, variables, ema_decay),
            optimizer_state=optimizer_state,
        )
        if devices is None:
            return new_state, metrics
        return devices.constrain_state(new_state), devices.constrain_replicated(metrics)

    return jax.jit(train_step, donate_argnums=0, compiler_options=step_compiler_options())


def _accumulated(
    differentiate: Callable[..., Any], steps: int
) -> Callable[[Variables, _Examples, Array], tuple[Variables, Variables, Array, Array]]:
    """Gradient of the loss's sum, new statistics, the sum, and the number correct, of a batch.

    It is computed in so many parts, one after the other, of which each has every so-manieth image:
    images that lie on one device are then in all parts.
    """

    def whole_batch(
        variables: Variables, batch: _Examples, key: Array
    ) -> tuple[Variables, Variables, Array, Array]:
        params, batch_stats = variables["params"], variables["batch_stats"]
        if steps == 1:
            (loss, (stats, correct)), gradient = differentiate(params, batch_stats, batch, key)
            return gradient, stats, loss, correct

        def part(carry: Any, inputs: Any) -> tuple[Any, None]:
            gradient, stats, loss, correct = carry
            micro_batch, micro_key = inputs
            (more_loss, (stats, more_correct)), more = differentiate(
                params, stats, micro_batch, micro_key
            )
            gradient = jax.tree.map(jnp.add, gradient, more)
            return (gradient, stats, loss + more_loss, correct + more_correct), None

        parts = jax.tree.map(lambda x: x.reshape(-1, steps, *x.shape[1:]).swapaxes(0, 1), batch)
        nothing = jax.tree.map(jnp.zeros_like, params)
        start = (nothing, batch_stats, jnp.zeros(()), jnp.zeros((), jnp.int32))
        total, _ = jax.lax.scan(part, start, (parts, jax.random.split(key, steps)))
        return total

    return whole_batch


def step_compiler_options() -> dict[str, str]:
    """What a function that holds a model's backward pass is best compiled with.

    What is computed again should be so only when it is needed, for which JAX puts barriers into the
    program. XLA for CPUs removes them before it orders the operations, computes all of it as early
    as it can, and saves no memory.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}


@jax.jit
def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether no array of a tree holds a NaN or an infinity."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _moved_average(
    state: TrainState, variables: Variables, ema_decay: float | None
) -> Variables | None:
    if state.average is None or ema_decay is None:
        return None
    # Early on a long memory would hold mostly the random start, so the decay grows into its value.
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    # In this form what does not change, such as a frozen stage, stays the same to the bit.
    moved: Variables = jax.tree.map(
        lambda old, new: old + (1 - decay) * (new - old), state.average, variables
    )
    return moved
